"""Folders of version 0.1, written here by plain JSON and safetensors, still open."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from adapt_helpers import NAMES, content, made, network, of_two_domains, pictures, predicted
from error_checks import raises
from safetensors.torch import save_file
from torch import Tensor

from metazoo.adapt import FewShotClassifier, MetaModel
from metazoo.cli.feature_source import open_source
from metazoo.errors import ArtefactError, UsageError
from metazoo.features.domain_router import DomainRecogniser
from metazoo.features.embedders import JointFeatures, MultiDomainClassifier
from metazoo.models import ImageClassifier


def write(folder: Path, name: str, record: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "model.safetensors")
    sha256 = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / name).write_text(json.dumps(record | {"weights_sha256": sha256}))
    return folder


def spec_of(classifier: ImageClassifier) -> dict[str, Any]:
    spec = classifier.spec
    names = ("architecture", "arguments", "classes", "input_size", "channels", "mean", "std")
    return {name: getattr(spec, name) for name in names}


def former_meta_model(folder: Path, module: ImageClassifier | MultiDomainClassifier, **more: Any) -> Path:
    networks = [*module.networks] if isinstance(module, MultiDomainClassifier) else [module]
    prefixes = [f"networks.{number}." for number in range(len(networks))] if len(networks) > 1 else [""]
    tensors = {
        f"{prefix}{name}": tensor
        for prefix, own in zip(prefixes, networks, strict=True)
        for name, tensor in own.network.state_dict().items()
    }
    record = {"format": "metazoo-meta-model", "format_version": 1, "method": "tgr", "setting": "thorough", "seed": 5}
    record["spec"] = spec_of(networks[0])
    if isinstance(module, MultiDomainClassifier):
        tensors["recogniser.weight"] = module.recogniser.weight
        record["domains"] = module.recogniser.domains
        record |= {"general": module.recogniser.general} if module.recogniser.is_general else {}
    write(folder, "meta-model.json", record | more, tensors)
    (folder / "card.md").write_text("# The card of 0.1\n")
    return folder


def former_classifier(folder: Path, classifier: FewShotClassifier, networks: Sequence[ImageClassifier]) -> Path:
    made, fitted = classifier.description, classifier.as_module().fitted
    tensors = {f"head.{name}": tensor for name, tensor in fitted.tensors.items()}
    for number, own in enumerate(networks):
        tensors |= {f"networks.{number}.{name}": tensor for name, tensor in own.network.state_dict().items()}
    record = {
        "format": "metazoo-classifier", "format_version": 1, "head": made.head, "kind": fitted.kind,
        "batch_norm": made.batch_norm, "mirrored": made.mirrored, "class_names": made.class_names, "joint": made.joint,
        "networks": [spec_of(own) for own in networks], "source": "RUN",
    }  # fmt: skip
    record |= {"domains": made.domains} if made.domains else {}
    return write(folder, "classifier.json", record, tensors)


def with_general() -> MultiDomainClassifier:
    two = of_two_domains()
    recogniser = DomainRecogniser(("birds", "ships"), two.recogniser.weight, (0.5, 0.25))
    return MultiDomainClassifier([*two.networks, network(5)], recogniser).eval()


@pytest.mark.parametrize("module", [network(), of_two_domains(), with_general()], ids=["one", "two", "general"])
def test_a_meta_model_opens(module: ImageClassifier | MultiDomainClassifier, tmp_path: Path) -> None:
    folder = former_meta_model(tmp_path / "m", module)
    loaded = MetaModel.load(folder)
    assert (loaded.method, loaded.preset, loaded.seed, loaded.card) == ("tgr", "thorough", 5, "# The card of 0.1\n")
    state = loaded.module.state_dict()
    assert state.keys() == module.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    assert torch.equal(loaded.module.features(pictures(3)), module.features(pictures(3)))
    source = open_source(str(folder))
    assert source.meta_model is not None
    loaded.save(folder)
    assert content(folder).keys() == {"bundle.json", "model.safetensors", "README.md"}
    assert content(folder)["README.md"] == b"# The card of 0.1\n"
    again = MetaModel.load(folder)
    assert torch.equal(again.module.features(pictures(3)), module.features(pictures(3)))


@pytest.mark.parametrize("kind", ["one", "joint", "domains"])
@pytest.mark.parametrize("head", ["logistic", "nearest-mean", "soft-k-means-free"])
def test_a_classifier_opens(kind: str, head: str, tmp_path: Path) -> None:
    one, two = network(0), network(1)
    module = {"one": one, "joint": JointFeatures([one, two]), "domains": of_two_domains()}[kind]
    expected = made(module=module, head=head, mirrored=kind == "one", batch_norm="running")
    folder = former_classifier(tmp_path / "c", expected, [one] if kind == "one" else [one, two])
    loaded = FewShotClassifier.load(folder)
    module, fitted = expected.as_module(), expected.as_module().fitted
    with torch.no_grad():
        uncalibrated = fitted.logits(module.features(pictures(6, seed=1))).softmax(1)
    assert torch.equal(predicted(loaded), uncalibrated)
    assert loaded.predict(pictures(2)).familiarity is None
    assert (loaded.class_names, loaded.description.source) == (NAMES, "RUN")
    assert loaded.description.domains == expected.description.domains
    with pytest.warns(FutureWarning, match="FewShotClassifier.card"):
        assert loaded.card is loaded.description
    loaded.save(folder)
    assert content(folder).keys() == {"bundle.json", "model.safetensors", "README.md"}
    assert torch.equal(predicted(FewShotClassifier.load(folder)), uncalibrated)


def test_meta_models_and_classifiers_are_not_confused(tmp_path: Path) -> None:
    former_meta_model(tmp_path / "former-meta-model", network())
    MetaModel(network(), method="tgr", preset="default", seed=3).save(tmp_path / "meta-model")
    former_classifier(tmp_path / "former-classifier", made(), [network()])
    made().save(tmp_path / "classifier")
    before = content(tmp_path)
    for name in ("former-meta-model", "meta-model"):
        with raises(UsageError, subject=name, problem="a meta-model, not a classifier", remedy="metazoo adapt"):
            FewShotClassifier.load(tmp_path / name)
        with raises(UsageError, subject=name, problem="not a classifier folder", remedy="another folder"):
            made().save(tmp_path / name)
    for name in ("former-classifier", "classifier"):
        with raises(UsageError, subject=name, problem="a classifier, not a meta-model", remedy="RUN/meta-model"):
            open_source(str(tmp_path / name))
        with raises(UsageError, subject=name, problem="not a meta-model folder", remedy="another folder"):
            MetaModel(network(), method="tgr", preset="default", seed=3).save(tmp_path / name)
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("more", "subject", "problem"),
    [
        ({"format_version": 2}, "meta-model.json", ""),
        ({"format": "x"}, "meta-model.json", "(format: "),
        ({"setting": 3}, "meta-model.json", "(preset: "),
        ({"spec": None}, "meta-model.json", "(networks.0: "),
        ({"domains": 7}, "meta-model.json", "(domains: "),
        ({"domains": ["a", "b"]}, "model.safetensors", "meta-model.json"),
        ({"general": [0.5]}, "meta-model.json", "1 general shares"),
        ({"code": "os.system"}, "meta-model.json", "(code: "),
    ],
)
def test_a_damaged_description_is_named(tmp_path: Path, more: dict[str, Any], subject: str, problem: str) -> None:
    folder = former_meta_model(tmp_path / "m", network(), **more)
    with raises(ArtefactError, subject=subject, problem=problem):
        MetaModel.load(folder)


def test_a_changed_file_is_named(tmp_path: Path) -> None:
    folder = former_meta_model(tmp_path / "m", network())
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with raises(ArtefactError, subject="model.safetensors"):
        MetaModel.load(folder)
