"""What may be done with images recovered from a model."""

import hashlib
import json
from pathlib import Path

from error_checks import raises
from rich.console import Console
from zoo_helpers import build_small, coloured_images, content

from metazoo.errors import ArtefactError, UsageError
from metazoo.report.zoo_tables import model_rows, model_table
from metazoo.zoo import Permission, TrainingConfig, Zoo, build_zoo


def permissions(zoo: Zoo) -> dict[str, str]:
    return {contract.name: contract.recovered_images for contract in zoo}


def shown(zoo: Zoo) -> str:
    console = Console(width=200, no_color=True)
    with console.capture() as capture:
        console.print(model_table(model_rows(zoo)))
    return capture.get()


def test_a_zoo_from_before_there_were_permissions_is_read_and_hashed_as_it_was(zoo: Zoo) -> None:
    models = [json.loads((zoo.folder / "models" / f"{contract.name}.json").read_text()) for contract in zoo]
    for model in models:
        del model["format_version"]
    assert all("recovered_images" not in model for model in models)
    assert permissions(zoo) == {"first": "show", "second": "show"}
    text = json.dumps(models, sort_keys=True, separators=(",", ":"))
    assert zoo.sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_a_permission_changes_nothing_else_and_can_be_taken_back(zoo: Zoo) -> None:
    before, sha256, contracts = content(zoo.folder), zoo.sha256, zoo.contracts
    zoo.permit(["second"], "keep")
    for opened in (zoo, Zoo.open(zoo.folder)):
        assert permissions(opened) == {"first": "show", "second": "keep"}
        assert opened.sha256 == sha256
        assert [contract.model_copy(update={"recovered_images": "show"}) for contract in opened] == list(contracts)
    zoo.permit(["first", "second"], "discard")
    assert set(permissions(Zoo.open(zoo.folder)).values()) == {"discard"}
    zoo.permit(["first", "second"], "show")
    assert content(zoo.folder) == before


def test_an_unknown_model_or_permission_changes_nothing(zoo: Zoo) -> None:
    before = content(zoo.folder)
    with raises(UsageError, subject=str(zoo.folder), problem="'third'"):
        zoo.permit(["first", "third"], "discard")
    with raises(UsageError, subject="model 'first'", problem="recovered_images: "):
        zoo.permit(["first"], "burn")  # pyright: ignore[reportArgumentType]
    assert content(zoo.folder) == before


def test_a_damaged_permission_names_its_model(zoo: Zoo) -> None:
    path = zoo.folder / "models" / "second.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "recovered_images": "sell"}))
    with raises(ArtefactError, subject=str(path), problem="damaged contract of model 'second' (recovered_images"):
        Zoo.open(zoo.folder)


def test_a_build_sets_it_and_does_not_change_it_silently(tmp_path: Path) -> None:
    images, config = coloured_images(classes=3, each=4, name="small"), TrainingConfig(epochs=1)

    def build(models: int, recovered_images: Permission | None) -> Zoo:
        return build_zoo(
            tmp_path / "zoo", images, "thin-resnet", models, 2,
            config=config, width=4, workers=1, recovered_images=recovered_images,
        )  # fmt: skip

    names = [contract.name for contract in build(1, "discard")]
    before = content(tmp_path / "zoo")
    with raises(UsageError, subject=names[0], problem="discard, not show", remedy="zoo set"):
        build(2, "show")
    assert content(tmp_path / "zoo") == before
    assert list(permissions(build(2, None)).values()) == ["discard", "show"]
    assert content(tmp_path / "zoo").keys() == content(build_small(tmp_path / "other").folder).keys()


def test_an_overview_tells_it_where_it_is_not_the_usual_one(zoo: Zoo) -> None:
    assert "recovered" not in shown(zoo)
    zoo.permit(["second"], "keep")
    table = shown(zoo)
    assert "recovered images" in table
    assert [line.split("│")[-2].strip() for line in table.splitlines() if "│ " in line] == ["show", "keep"]
