import re
from collections.abc import Callable

from cli_helpers import Outcome, Workshop, content

from metazoo.zoo import Zoo

Cli = Callable[..., Outcome]
Refused = Callable[..., str]
NAMES = ("seen-conv4-w4-s0-000", "seen-conv4-w4-s0-001")


def permissions(workshop: Workshop) -> list[str]:
    return [contract.recovered_images for contract in Zoo.open(workshop.zoo)]


def test_permissions_are_set_and_shown(cli: Cli, refused: Refused, own: Workshop) -> None:
    assert "recovered images" not in cli("zoo", "inspect", own.zoo).out
    outcome = cli("zoo", "set", own.zoo, NAMES[1], "--recovered-images", "keep")
    assert outcome == Outcome(0, f"{own.zoo}: recovered images: keep, for {NAMES[1]}\n", "")
    assert permissions(own) == ["show", "keep"]
    table = cli("zoo", "inspect", own.zoo).out
    assert "recovered images" in table
    assert re.search(rf"{NAMES[0]} .*│ show +│\n", table)
    assert re.search(rf"{NAMES[1]} .*│ keep +│\n", table)
    assert cli("zoo", "set", own.zoo, "--recovered-images", "discard").code == 0
    assert permissions(own) == ["discard", "discard"]
    assert "no model 'cat'" in refused(2, "zoo", "set", own.zoo, "cat", "--recovered-images", "show")
    assert permissions(own) == ["discard", "discard"]


def test_a_build_gives_its_models_a_permission(cli: Cli, refused: Refused, own: Workshop) -> None:
    build = ("zoo", "build", own.zoo, "--data", own.seen, "--ways", 3, "--width", 4, "--input-size", 16, "--epochs", 2)
    keep = ("--recovered-images", "keep", "--workers", 1)
    error = refused(2, *build, "--models", 3, *keep)
    assert f"model '{NAMES[0]}'" in error
    assert "show, not keep; change it with `metazoo zoo set`" in error
    assert permissions(own) == ["show", "show"]
    assert cli("zoo", "set", own.zoo, "--recovered-images", "keep").code == 0
    assert cli(*build, "--models", 3, *keep).code == 0
    assert permissions(own) == ["keep", "keep", "keep"]


def test_a_run_makes_no_pictures_where_none_are_wanted(cli: Cli, refused: Refused, own: Workshop) -> None:
    train = ("train", "--zoo", own.zoo, "--config", own.config, "--workers", 1)
    assert cli(*train, "--out", own.new, "--no-images").code == 0
    assert not list(own.new.rglob("*.png"))
    before = content(own.new)
    assert cli(*train, "--out", own.new, "--resume").code == 0
    assert content(own.new) == before
    assert len(list(own.run.rglob("*.png"))) == 2
    error = refused(1, *train, "--out", own.run, "--resume", "--no-images")
    assert "--no-images" in error
    assert f"metazoo zoo set {own.zoo} --recovered-images keep" in error
    assert cli("zoo", "set", own.zoo, NAMES[0], "--recovered-images", "keep").code == 0
    assert cli(*train, "--out", own.run, "--resume").code == 0
    assert [path.stem for path in own.run.rglob("*.png")] == [NAMES[1]]
