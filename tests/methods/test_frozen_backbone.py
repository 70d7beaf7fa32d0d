"""Frozen backbones from the zoo and from disk: what they store, and what they are refused for."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from error_checks import raises
from image_folders import write_images
from safetensors.torch import save_file
from training_helpers import SIDE, untrained
from transformers_models import SIDE as FOLDER_SIDE
from transformers_models import transformers_model

import metazoo
from metazoo.adapt import MetaModel
from metazoo.cli import main
from metazoo.errors import MetazooError, RunError, UsageError
from metazoo.evaluate import read_contamination
from metazoo.methods.frozen_backbone import FrozenBackbone
from metazoo.models import ImageClassifier, build_classifier
from metazoo.runs.plan import plan_run
from metazoo.runs.record import Run
from metazoo.zoo import Zoo

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
IMAGES = torch.rand(4, 3, FOLDER_SIDE, FOLDER_SIDE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return untrained(tmp_path_factory.mktemp("untrained") / "zoo")


def made(zoo: Zoo, out: Path, **options: Any) -> Run:
    return metazoo.train(zoo, "frozen-backbone", out=out, config=options, workers=1)


def normalised(images: torch.Tensor) -> torch.Tensor:
    return (images - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def timm_model() -> Any:
    import timm

    torch.manual_seed(5)
    return timm.create_model("test_resnet", num_classes=3).eval()


def timm_weights(folder: Path, **description: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(timm_model().state_dict(), folder / "own.safetensors")
    if description:
        (folder / "own.yaml").write_text(json.dumps(description))
    return folder / "own.safetensors"


def test_a_model_of_the_zoo_is_kept_as_it_is(zoo: Zoo, tmp_path: Path) -> None:
    run = made(zoo, tmp_path / "run", backbone="model-2")
    own, stored = zoo.teacher("model-2").classifier, run.meta_model.module
    assert torch.equal(own.features(IMAGES), stored.features(IMAGES))
    assert run.description["uses"] == "weights"
    assert run.record("backbone.json") is None


def test_a_network_of_timm_with_a_file_needs_neither_the_file_nor_the_zoo_afterwards(zoo: Zoo, tmp_path: Path) -> None:
    weights = timm_weights(tmp_path / "files", classes=["emu", "cat", "a"], input_size=FOLDER_SIDE, mean=MEAN, std=STD)
    run = made(zoo, tmp_path / "run", backbone="timm:test_resnet", weights=str(weights))
    weights.unlink()
    meta_model = MetaModel.load(run.path / "meta-model")
    with torch.no_grad():
        model = timm_model()
        expected = model.forward_head(model.forward_features(normalised(IMAGES)), pre_logits=True)
        torch.testing.assert_close(meta_model.module.features(IMAGES), expected, rtol=1e-4, atol=1e-4)
    classifier = meta_model.adapt(IMAGES[:2], [0, 1], ["cat", "dog"], head="nearest-mean")
    assert classifier.predict(IMAGES[:2]).names == ["cat", "dog"]
    assert run.description["uses"] == "backbone"
    record = run.record("backbone.json")
    assert (record["source"], record["class_names"]) == ("timm:test_resnet", ["emu", "cat", "a"])
    assert len(record["source_sha256"]) == 64
    assert "no model of the zoo is used" in meta_model.card
    assert "data-free" not in meta_model.card
    assert "model-0" not in meta_model.card
    assert str(tmp_path) not in meta_model.card


def test_a_folder_of_save_pretrained_is_adapted_and_evaluated_by_command(
    zoo: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transformers_model("ViTForImageClassification", labels=["emu", "colour-1", "dog"]).save_pretrained(tmp_path / "vit")
    square = {"height": FOLDER_SIDE, "width": FOLDER_SIDE}
    transformers.ViTImageProcessor(size=square, image_mean=MEAN, image_std=STD).save_pretrained(tmp_path / "vit")
    run, out, images = tmp_path / "run", tmp_path / "result.json", write_images(tmp_path / "images", 3, 5)
    train = ["train", "--zoo", str(zoo.folder), "--out", str(run), "--method", "frozen-backbone", "--workers", "1"]
    assert main([*train, "--set", f"backbone={tmp_path / 'vit'}"]) == 0
    command = ["evaluate", str(run), "--data", str(images), "--ways", "3", "--shots", "1", "--queries", "2"]
    assert main([*command, "--episodes", "3", "--out", str(out)]) == 0
    known = read_contamination(out)
    assert known is not None
    assert known.known == {"colour-1": ("vit",)}  # a class of the backbone, which no model of the zoo has
    assert main(["adapt", str(run), "--support", str(images), "--out", str(tmp_path / "classifier")]) == 0
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "classifier"), str(images / "colour-0" / "0.png")]) == 0
    assert "colour-" in capsys.readouterr().out


def test_a_number_of_classes_replaces_names_that_are_then_unknown(
    zoo: Zoo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = timm_weights(tmp_path, mean=MEAN, std=STD)
    given = {"backbone": "timm:test_resnet", "weights": str(weights)}
    with raises(
        UsageError, problem="does not state classes, input_size", remedy="--set classes=NUMBER and --set input"
    ):
        made(zoo, tmp_path / "run", **given)
    run = made(zoo, tmp_path / "run", **given, classes=3, input_size=SIDE)
    assert run.meta_model.spec.input_size == SIDE
    assert run.backbone_classes() == {}
    assert "unknown" in capsys.readouterr().err


def own_weights(zoo: Zoo, folder: Path, seed: int = 3) -> ImageClassifier:
    """Write `w.safetensors` with its description; its architecture follows from the tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = zoo.contracts[0].spec
    classifier = build_classifier(spec, torch.Generator().manual_seed(seed)).eval()
    save_file({k: v.contiguous() for k, v in classifier.network.state_dict().items()}, folder / "w.safetensors")
    fields = {"mean": spec.mean, "std": spec.std, "input_size": SIDE, "classes": ["x", "y", "z"]}
    (folder / "w.yaml").write_text(json.dumps(fields))
    return classifier


def test_a_built_in_architecture_is_recognised_by_its_tensors(zoo: Zoo, tmp_path: Path) -> None:
    classifier = own_weights(zoo, tmp_path)
    run = made(zoo, tmp_path / "run", backbone=str(tmp_path / "w.safetensors"))
    assert torch.equal(run.meta_model.module.features(IMAGES), classifier.features(IMAGES))


def begun(zoo: Zoo, out: Path, backbone: str) -> None:
    """Begin a run, which is stopped before its method does anything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FrozenBackbone, "train", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            made(zoo, out, backbone=backbone)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_run_resumed_in_another_folder_has_the_network_it_began_with(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = own_weights(zoo, tmp_path / "a", 1)
    own_weights(zoo, tmp_path / "b", 2)
    monkeypatch.chdir(tmp_path / "a")
    begun(zoo, tmp_path / "run", "w.safetensors")
    monkeypatch.chdir(tmp_path / "b")
    run = metazoo.train(zoo, out=tmp_path / "run", workers=1, resume=True)
    assert torch.equal(run.meta_model.module.features(IMAGES), classifier.features(IMAGES))
    with raises(RunError, problem="begun with another backbone"):
        other = {"method": "frozen-backbone", "backbone": "w.safetensors"}
        metazoo.train(zoo, out=tmp_path / "run", config=other, workers=1, resume=True)
    (tmp_path / "a" / "w.safetensors").unlink()
    assert metazoo.train(zoo, out=tmp_path / "run", workers=1, resume=True).finished


def test_a_run_is_not_resumed_with_a_changed_file(zoo: Zoo, tmp_path: Path) -> None:
    classifier = own_weights(zoo, tmp_path, 1)
    weights, description = tmp_path / "w.safetensors", tmp_path / "w.yaml"
    begun(zoo, tmp_path / "run", str(weights))
    own_weights(zoo, tmp_path, 2)
    with raises(RunError, problem="began before the backbone changed", remedy="restore it"):
        metazoo.train(zoo, out=tmp_path / "run", workers=1, resume=True)
    own_weights(zoo, tmp_path, 1)
    description.write_text(description.read_text().replace('"z"', '"other"'))
    with raises(RunError, problem="began before the description of the backbone changed", remedy="restore it"):
        metazoo.train(zoo, out=tmp_path / "run", workers=1, resume=True)
    own_weights(zoo, tmp_path, 1)
    run = metazoo.train(zoo, out=tmp_path / "run", workers=1, resume=True)
    assert torch.equal(run.meta_model.module.features(IMAGES), classifier.features(IMAGES))


def test_a_name_is_a_model_of_the_zoo_also_beside_a_file_of_that_name(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model-1").touch()
    (tmp_path / "vit").mkdir()
    assert made(zoo, tmp_path / "run", backbone="model-1").description["uses"] == "weights"
    with raises(UsageError, subject=str(tmp_path / "model-1")):
        made(zoo, tmp_path / "other", backbone="./model-1")
    with raises(UsageError, subject="vit", problem="is no model of the zoo", remedy="./vit"):
        made(zoo, tmp_path / "other", backbone="vit")


def refusals(folder: Path) -> list[tuple[dict[str, Any], str, str, str]]:
    weights = timm_weights(folder)
    (folder / "text.pth").write_text("no weights at all")
    (folder / "empty").mkdir()
    return [
        ({}, "backbone", "missing", "--set backbone="),
        ({"backbone": "absent"}, "absent", "is no model of the zoo", "write ./absent"),
        ({"backbone": "absent"}, "absent", "is no model of the zoo", "choose one of model-0"),
        ({"backbone": ""}, "backbone", "is no model of the zoo", ""),
        ({"backbone": "absent.pth"}, str(Path("absent.pth").absolute()), "is not a file", ".safetensors"),
        ({"backbone": "a" * 5000 + "/b"}, "aaa", "too long", "another path"),
        ({"backbone": "~nobodyxyz/b"}, "~nobodyxyz/b", "home directory", "another path"),
        ({"backbone": "timm:test_resnet", "weights": ""}, "path", "is empty", ""),
        ({"backbone": "hf:owner/name"}, "hf:owner/name", "downloads nothing", "download it"),
        ({"backbone": "https://a.example/b.pth"}, "https", "URLs are not read", "download"),
        ({"backbone": "timm:test_resnet"}, "weights", "missing", "--set weights=FILE"),
        ({"backbone": "timm:absent", "weights": str(weights)}, "timm", "no image classifier 'absent'", ""),
        ({"backbone": "timm:test_resnet", "weights": "gone.pth"}, "gone.pth", "is not a file", "weights file"),
        ({"backbone": "model-0", "weights": str(weights)}, "weights", "does not apply", "omit weights"),
        ({"backbone": "model-0", "input_size": 32}, "input_size", "does not apply", "omit input_size"),
        ({"backbone": str(weights), "weights": str(weights)}, "weights", "does not apply", "omit"),
        ({"backbone": str(weights)}, "own.safetensors", "does not state architecture", ".yaml"),
        ({"backbone": str(folder / "text.pth")}, "text.pth", "", ""),
        ({"backbone": str(folder / "empty")}, "empty", "", ""),
    ]


def test_a_backbone_that_cannot_be_used_is_named_before_any_work(zoo: Zoo, tmp_path: Path) -> None:
    for options, subject, problem, remedy in refusals(tmp_path / "files"):
        for refuse in (
            lambda options=options: made(zoo, tmp_path / "run", **options),
            lambda options=options: plan_run(zoo, "frozen-backbone", config=options),
        ):
            with raises(MetazooError, subject=subject, problem=problem, remedy=remedy):
                refuse()
    assert not (tmp_path / "run").exists()


def test_weights_of_another_network_are_refused(zoo: Zoo, tmp_path: Path) -> None:
    weights = timm_weights(tmp_path, classes=["a", "b"], input_size=SIDE, mean=MEAN, std=STD)
    with raises(MetazooError, subject="timm:test_resnet", problem="does not fit timm:test_resnet with 2 classes"):
        made(zoo, tmp_path / "run", backbone="timm:test_resnet", weights=str(weights))


def test_a_model_without_weights_is_no_backbone_and_others_need_none(zoo: Zoo, tmp_path: Path) -> None:
    first, *others = zoo.contracts
    queried = Zoo(zoo.folder, [first.model_copy(update={"weights_sha256": ""}), *others])
    with raises(UsageError, subject="'model-0'", problem="has no weights"):
        made(queried, tmp_path / "run", backbone="model-0")
    assert made(queried, tmp_path / "run", backbone="model-1").finished
