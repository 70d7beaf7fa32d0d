import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from error_checks import raises

from metazoo.errors import UsageError
from metazoo.methods import METHODS
from metazoo.methods.tgr import TgrConfig
from metazoo.runs.config import RunConfig, resolve_config, with_overrides


def options_of(config: RunConfig) -> TgrConfig:
    assert isinstance(config.options, TgrConfig)
    return config.options


def file_of(folder: Path, text: str) -> Path:
    path = folder / "run's options.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_no_options_give_the_default_preset_of_tgr() -> None:
    config = resolve_config()
    assert (config.method.name, config.preset, config.seed) == ("tgr", "default", 0)
    assert config.options == config.method.presets["default"]


@pytest.mark.parametrize("method", [*METHODS])
def test_every_preset_of_every_method_is_read_back_equal(method: Any, tmp_path: Path) -> None:
    for preset in method.presets:
        config = resolve_config(method=method.name, preset=preset, seed=5)
        assert resolve_config(file_of(tmp_path, config.as_yaml())) == config
        assert resolve_config(config.as_record()) == config


def test_options_change_what_they_name_and_nothing_else(tmp_path: Path) -> None:
    text = "seed: 3\nlearning:\n  steps: 7\n  regularisation: {kind: explicit, strength: 0.125}\nbudget: {}\n"
    for given in (file_of(tmp_path, text), str(file_of(tmp_path, text)), yaml.safe_load(text)):
        found = resolve_config(given)
        base, config = options_of(resolve_config()), options_of(found)
        assert found.seed == 3
        regularisation = base.learning.regularisation.model_copy(update={"kind": "explicit", "strength": 0.125})
        learning = base.learning.model_copy(update={"steps": 7, "regularisation": regularisation})
        assert config == base.model_copy(update={"learning": learning})
        assert resolve_config(found.as_record()) == found


def test_missing_options_are_those_of_the_preset_at_any_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = {"learning": {"steps": 11, "views": 12, "regularisation": {"displacement": 0.5, "strength": 0.25}}}
    monkeypatch.setattr(METHODS.get("tgr"), "presets", {"odd": TgrConfig.model_validate(odd)}, raising=False)
    config = resolve_config({"preset": "odd", "learning": {"steps": 5, "regularisation": {"strength": 0.125}}})
    learning = options_of(config).learning
    assert (learning.steps, learning.views) == (5, 12)
    assert (learning.regularisation.displacement, learning.regularisation.strength) == (0.5, 0.125)


def test_an_option_that_did_not_exist_when_a_run_began_keeps_the_former_behaviour() -> None:
    record = resolve_config().as_record()
    del record["learning"]["regularisation"]["every"], record["meta_model"]["width"]
    begun, now = options_of(resolve_config(record, begun=True)), options_of(resolve_config(record))
    assert now == resolve_config().options
    assert (begun.learning.regularisation.every, begun.meta_model.width) == (1, None)
    assert (now.learning.regularisation.every, now.meta_model.width) == (5, "default")


def test_given_options_are_not_changed() -> None:
    options = {"format_version": 1, "method": "tgr", "seed": 2, "learning": {"steps": 9}}
    resolve_config(options)
    assert options == {"format_version": 1, "method": "tgr", "seed": 2, "learning": {"steps": 9}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lerning": {"steps": 5}}, "unknown option lerning; did you mean learning?"),
        ({"learning": {"step": 5}}, "unknown option learning.step; did you mean learning.steps?"),
        (
            {"learning": {"regularisation": {"strenght": 5}}},
            "unknown option learning.regularisation.strenght; did you mean learning.regularisation.strength?",
        ),
        ({"learning": {"qqq": 5}}, "unknown option learning.qqq; choose one of steps, "),
        ({"class_map": None}, "unknown option class_map of preset default; choose a preset that has it: published"),
        ({"grouping": {5: 5}}, "unknown option grouping.5; choose one of strategy, groups"),
        ({"a\x1b[2J\n": 5}, "unknown option a\\x1b[2J\\n; "),
        ({"learning": {"steps": "many"}}, "learning.steps: Input should be a valid integer"),
        ({"learning": {"steps": 0}}, "learning.steps: Input should be greater than or equal to 1, not '0'"),
        ({"learning": {"steps": 2.5}}, "learning.steps: "),
        ({"learning": {"steps": None}}, "learning.steps: "),
        ({"learning": {"learning_rate": math.nan}}, "learning.learning_rate: Input should be a finite number"),
        ({"learning": {"joint_features": math.inf}}, "learning.joint_features: Input should be a finite number"),
        ({"learning": {"mix": "perhaps"}}, "learning.mix: "),
        ({"learning": 5}, "learning: must hold values by name"),
        ({"learning": [{"steps": 5}]}, "learning: must hold values by name"),
        (
            {"learning": {"regularisation": {"kind": "none"}}},
            "learning.regularisation.kind: unknown regulariser 'none'; choose one of implicit, explicit, mean",
        ),
        ({"grouping": {"strategy": "best"}}, "grouping.strategy: "),
        ({"probe": {"learning_rate": math.inf}}, "probe.learning_rate: "),
        (
            {"probe": {"architecture": "vgg"}},
            "probe.architecture: unknown architecture 'vgg'; choose one of conv4, thin-resnet",
        ),
        (
            {"meta_model": {"architecture": "vgg"}},
            "meta_model.architecture: unknown architecture 'vgg'; choose one of conv4",
        ),
        ({"meta_model": {"width": 100_000}}, "meta_model.width: "),
        ({"meta_model": {"input_size": 8}}, "meta_model.input_size: "),
        (
            {"learning": {"joint_features": 0, "relations": 0, "distillation": 0}},
            "learning: joint_features, relations and distillation are 0",
        ),
        ({"method": "maml"}, "unknown method 'maml'; choose one of tgr"),
        ({"preset": "best"}, "tgr: unknown preset best; choose one of default"),
        ({"format_version": 2}, "has format version 2, this metazoo reads 1; update metazoo"),
        ({"format_version": "1"}, "has format version 1, this metazoo"),
        ({"format_version": "\x1b[2J\ud7fc"}, r"has format version \x1b[2J\ud7fc, this metazoo"),
    ],
)
def test_wrong_options_are_named(options: dict[Any, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_config(options)
    assert message in str(caught.value)
    path = file_of(tmp_path, yaml.safe_dump(options))
    with pytest.raises(UsageError) as from_file:
        resolve_config(path)
    assert str(from_file.value) == re.sub("^options:", f"{path}:", str(caught.value))


def test_arguments_override_the_file(tmp_path: Path) -> None:
    path = file_of(tmp_path, "method: unheard-of\npreset: unknown\nseed: 9\nlearning: {steps: 4}\n")
    config = resolve_config(path, method="tgr", preset="default", seed=2)
    assert (config.method.name, config.preset, config.seed) == ("tgr", "default", 2)
    assert options_of(config).learning.steps == 4
    assert resolve_config({"seed": 9}, seed=0).seed == 0


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_a_seed_is_a_whole_number(seed: int) -> None:
    assert resolve_config(seed=seed).seed == resolve_config({"seed": seed}).seed == seed


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, "1", True, [1]])
def test_any_other_seed_is_refused(seed: Any) -> None:
    calls: list[dict[str, Any]] = [{"options": {"seed": seed}}, {"seed": seed}]
    for call in calls:
        with raises(UsageError, subject="seed", problem=str(seed)):
            resolve_config(**call)


@pytest.mark.parametrize("text", ["", "# only a remark\n", "{}", "---\n"])
def test_an_empty_file_changes_nothing(text: str, tmp_path: Path) -> None:
    assert resolve_config(file_of(tmp_path, text)) == resolve_config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5", "must hold options by name, such as `seed: 0`, not int"),
        ("- seed: 0\n", "not list"),
        ("seed", "not str"),
        ("seed: [", "is not valid YAML"),
        ("seed: 0\nlearning: {steps: 5}\nseed: 1\n", "duplicate key 'seed' in line 3"),
        ("learning: {steps: 5, steps: 6}\n", "duplicate key 'steps' in line 1"),
        ("seed: 0\n---\nseed: 1\n", "is not valid YAML"),
        ("seed: \x00", "is not valid YAML"),
        ("seed: 0\n\u0600\n", "a simple key at line 2, column 1: ? ^"),
        ("a: &a [x]\nb: *a\n", "anchors and aliases"),
        ("a: &a {b: *a}\n", "anchors and aliases"),
        ("<<: &a {seed: 1}\nb: *a\n", "anchors and aliases"),
        ("!!python/object/apply:os.system ['touch hacked']", "is not valid YAML"),
        ("seed: !!python/name:os.system\n", "is not valid YAML"),
        ("seed: !!python/object/new:tuple [[1]]\n", "is not valid YAML"),
        ("[" * 20_000, "is not valid YAML"),
        ("seed: " + "9" * 6000, "is not valid YAML"),
        ("? [a]\n: 1\n", "is not valid YAML"),
        ("seed: 2020-99-99\n", "is not valid YAML"),
        ("#" * 1_000_001, "has more than 1,000,000 bytes"),
    ],
)
def test_a_file_that_is_no_plain_description_is_refused(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = file_of(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        resolve_config(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600 + len(str(path))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_copies_of_copies_are_refused_before_they_fill_the_memory(tmp_path: Path) -> None:
    lines = ["a0: &a0 [" + ", ".join(["x"] * 10) + "]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 30)]
    with raises(UsageError, subject=".yaml", problem="anchors"):
        resolve_config(file_of(tmp_path, "\n".join(lines)))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with raises(UsageError, subject="missing.yaml", problem="exist"):
        resolve_config(tmp_path / "missing.yaml")
    with raises(UsageError, subject=str(tmp_path), problem="directory"):
        resolve_config(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("seed: 0 # Grün".encode("latin-1"))
    with raises(UsageError, subject="latin.yaml", problem="decode"):
        resolve_config(str(tmp_path / "latin.yaml"))


def test_a_dotted_key_equals_an_option_in_its_section(tmp_path: Path) -> None:
    expected = resolve_config({"learning": {"steps": 7, "regularisation": {"kind": "mean"}}, "seed": 3})
    dotted = "learning.steps: 7\nlearning: {regularisation.kind: mean}\nseed: 3\n"
    assert resolve_config(file_of(tmp_path, dotted)) == expected
    assert resolve_config({"learning.regularisation.kind": "mean", "learning.steps": 7, "seed": 3}) == expected


@pytest.mark.parametrize(
    "given",
    [
        {"learning": {"steps": 5}, "learning.steps": 6},
        {"learning.steps": 5, "learning": {"steps": 5}},
        {"learning": 5, "learning.steps": 6},
        {"learning.regularisation": {"kind": "mean"}, "learning": {"regularisation.kind": "mean"}},
    ],
)
def test_an_option_given_in_both_forms_is_refused(given: dict[str, Any]) -> None:
    with raises(UsageError, subject="learning", problem="twice", remedy="remove one"):
        resolve_config(given)


@pytest.mark.parametrize(
    ("key", "name"), [("lerning.steps", "lerning"), ("learning.stpes", "learning.stpes"), ("seed.x", "seed"), (".", "")]
)
def test_an_unknown_dotted_key_is_refused(key: str, name: str) -> None:
    with raises(UsageError) as caught:
        resolve_config({key: 1})
    assert name in str(caught.value)


def test_overrides_replace_options_of_the_file_and_are_yaml(tmp_path: Path) -> None:
    path = file_of(tmp_path, "learning: {steps: 5, views: 9}\nmeta_model.width: 16\n")
    overrides = ["learning.steps=7", "meta_model.width=[8, 8, 8, 8]", "learning.mix=no", "probe={steps: 4}"]
    config = options_of(resolve_config(with_overrides(path, overrides)))
    assert (config.learning.steps, config.learning.views, config.learning.mix) == (7, 9, False)
    assert (config.meta_model.width, config.probe.steps) == ((8, 8, 8, 8), 4)
    assert options_of(resolve_config(with_overrides(None, ["learning.steps=7"]))).learning.steps == 7
    assert with_overrides(path, []) == path


@pytest.mark.parametrize(
    "override", ["learning.steps", "=3", "learning.steps=[", "learning.steps=!!python/name:os.system"]
)
def test_an_override_without_key_or_value_is_refused(override: str) -> None:
    with raises(UsageError, subject="--set"):
        with_overrides(None, [override])


def test_the_former_name_of_a_preset_works(capsys: pytest.CaptureFixture[str]) -> None:
    config = resolve_config(preset="reference")
    assert config == resolve_config({"preset": "reference"}) == resolve_config(preset="published")
    assert capsys.readouterr().err.count("warning: preset reference is now called published") == 2
    assert resolve_config({"preset": "reference"}, begun=True).preset == "published"
    assert capsys.readouterr().err == ""


def test_distillation_has_no_options_of_groups_and_regularisation() -> None:
    for option in ("grouping.groups", "probe.steps", "learning.regularisation.every", "learning.update"):
        with raises(UsageError, problem="unknown option"):
            resolve_config({option: 1}, method="zoo-distillation")
