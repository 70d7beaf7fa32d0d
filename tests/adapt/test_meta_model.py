from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapt_helpers import (
    LABELS,
    NAMES,
    content,
    edit_json,
    edit_weights,
    made,
    network,
    of_two_domains,
    pictures,
    predicted,
)
from error_checks import raises
from torch import Tensor

from metazoo.adapt import FewShotClassifier, MetaModel
from metazoo.errors import ArtefactError, UsageError
from metazoo.features.domain_router import DomainRecogniser
from metazoo.features.embedders import MultiDomainClassifier

DESCRIPTION, WEIGHTS, CARD = "bundle.json", "model.safetensors", "README.md"


def test_save_and_load(meta_model: Path) -> None:
    loaded = MetaModel.load(meta_model)
    assert (loaded.method, loaded.preset, loaded.seed) == ("tgr", "default", 3)
    (own,) = loaded.networks
    assert own is loaded.module
    assert own.spec == loaded.spec == network().spec
    assert torch.equal(own.features(pictures(5)), network().features(pictures(5)))
    assert not own.training
    assert not any(parameter.requires_grad for parameter in own.parameters())


def test_save_returns_the_names_of_the_files(tmp_path: Path) -> None:
    names = MetaModel(network(), method="tgr", preset="default", seed=3).save(tmp_path / "new" / "one")
    assert set(names) == content(tmp_path / "new" / "one").keys() == {DESCRIPTION, WEIGHTS, CARD}


def test_repr_shows_method_seed_and_networks(meta_model: Path, two_domains: Path) -> None:
    assert repr(MetaModel.load(meta_model)) == (
        "MetaModel(tgr, preset default, seed 3: conv4 of 16 pixels, 4 features)"
    )
    assert repr(MetaModel.load(two_domains)).endswith("conv4 of 16 pixels, 4 features, domains birds, ships)")


@pytest.mark.parametrize("kind", ["run", "zoo"])
def test_folders_of_other_kinds_are_named(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / f"{kind}.json").write_text("{}")
    with raises(UsageError, subject=str(folder), problem=f"is a {kind}, not a meta-model", remedy="RUN/meta-model"):
        MetaModel.load(folder)
    with raises(UsageError, subject=str(folder), problem=f"is a {kind}, not a classifier", remedy="metazoo adapt"):
        FewShotClassifier.load(folder)


def test_saving_again_gives_equal_bytes(meta_model: Path, tmp_path: Path) -> None:
    MetaModel.load(meta_model).save(tmp_path / "again")
    assert content(tmp_path / "again") == content(meta_model)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("blocks.1.0.weight", float("inf"), "not finite in tensor blocks.1.0.weight"),
        ("blocks.2.1.running_var", -1.0, "negative variance in tensor blocks.2.1.running_var"),
    ],
)
def test_a_model_that_could_not_be_loaded_is_not_saved(name: str, value: float, problem: str, tmp_path: Path) -> None:
    folder, model = tmp_path / "one", MetaModel(network(), method="tgr", preset="default", seed=3)
    model.save(folder)
    before = content(tmp_path)
    model.networks[0].network.state_dict()[name][0] = value
    with raises(ArtefactError, subject=str(folder), problem=problem, remedy="lower the learning rate"):
        model.save(folder)
    assert content(tmp_path) == before
    with raises(ArtefactError, subject="new", problem=problem, remedy="lower the learning rate"):
        model.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("head", ["nearest-mean", "fine-tune"])
def test_a_meta_model_adapts_as_its_network(meta_model: Path, head: str) -> None:
    classifier = MetaModel.load(meta_model).adapt(pictures(7), LABELS, NAMES, head=head, batch_norm="support")
    assert torch.equal(predicted(classifier), predicted(made(head=head, batch_norm="support")))
    assert classifier.description.source == "tgr (default), seed 3"
    assert (classifier.description.head, classifier.description.batch_norm) == (head, "support")


def test_per_domain_networks_are_saved_and_loaded(two_domains: Path, tmp_path: Path) -> None:
    loaded, expected = MetaModel.load(two_domains), of_two_domains()
    assert isinstance(loaded.module, MultiDomainClassifier)
    assert loaded.module.recogniser.domains == ("birds", "ships")
    for name, tensor in expected.state_dict().items():
        assert torch.equal(loaded.module.state_dict()[name], tensor)
    assert loaded.networks == loaded.module.networks
    assert not any(part.training for part in loaded.module.modules())
    classifier = loaded.adapt(pictures(7), LABELS, NAMES, head="ridge")
    assert torch.equal(predicted(classifier), predicted(made(module=expected, head="ridge")))
    loaded.save(tmp_path / "again")
    assert content(tmp_path / "again") == content(two_domains)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: t.pop("recogniser.weight"), "recogniser.weight"),
        (lambda t: t.pop("networks.1.head.bias"), "networks.1.head.bias"),
        (lambda t: t.update({"recogniser.weight": torch.zeros(9, 3)}), "[9, 3]"),
        (lambda t: t["recogniser.weight"][1].fill_(torch.nan), "recogniser.weight"),
    ],
)
def test_damaged_weights_of_several_domains_are_named(
    two_domains: Path, change: Callable[[dict[str, Tensor]], object], problem: str
) -> None:
    edit_weights(two_domains, change)
    with raises(ArtefactError, subject=str(two_domains / WEIGHTS), problem=problem):
        MetaModel.load(two_domains)


def test_a_general_network_is_saved_and_loaded(tmp_path: Path) -> None:
    two = of_two_domains()
    recogniser = DomainRecogniser(("birds", "ships"), two.recogniser.weight, (0.5, 0.0))
    module = MultiDomainClassifier([*two.networks, network(5)], recogniser).eval()
    MetaModel(module, method="tgr", preset="default", seed=3).save(tmp_path / "one")
    loaded = MetaModel.load(tmp_path / "one")
    assert len(loaded.networks) == 3
    for domain in (None, "birds", "ships"):
        classifier = loaded.adapt(pictures(7), LABELS, NAMES, domain=domain)
        assert len(classifier.description.networks) == {None: 3, "birds": 2, "ships": 1}[domain]
        assert torch.equal(predicted(classifier), predicted(made(module=module, domain=domain)))
        classifier.save(tmp_path / "classifier")
        assert torch.equal(predicted(FewShotClassifier.load(tmp_path / "classifier")), predicted(classifier))
    for general in ([2, 0], [0.5], [0.5, None], [0, 0]):
        edit_json(tmp_path / "one" / DESCRIPTION, lambda content, general=general: content.update(general=general))
        with raises(ArtefactError, subject=str(tmp_path / "one")):
            MetaModel.load(tmp_path / "one")


@pytest.mark.parametrize("domains", [[], ["birds"], ["birds", "birds"], ["a", "b", "c"]])
def test_domains_that_do_not_fit_the_networks_are_named(two_domains: Path, domains: list[str]) -> None:
    edit_json(two_domains / DESCRIPTION, lambda content: content.update(domains=domains))
    with raises(ArtefactError, subject=str(two_domains)):
        MetaModel.load(two_domains)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with raises(UsageError, subject=str(tmp_path / "none"), problem="not a folder", remedy="RUN/meta-model"):
        MetaModel.load(tmp_path / "none")
    with raises(ArtefactError, subject=DESCRIPTION):
        MetaModel.load(tmp_path)


def test_a_missing_or_changed_file_is_named(meta_model: Path) -> None:
    path = meta_model / WEIGHTS
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b"\x80\x05."):
        path.write_bytes(damaged)
        with raises(ArtefactError, subject=str(path)):
            MetaModel.load(meta_model)
    path.unlink()
    with raises(ArtefactError, subject=str(path)):
        MetaModel.load(meta_model)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: t.pop("head.bias"), "head.bias"),
        (lambda t: t.update(more=torch.zeros(1)), "'more'"),
        (lambda t: t.update({"head.bias": torch.zeros(4)}), "float32 [4]"),
        (lambda t: t.update({"head.bias": torch.zeros(5).half()}), "float16"),
        (lambda t: t["blocks.0.0.weight"].fill_(torch.nan), "blocks.0.0.weight"),
        (lambda t: t["blocks.0.1.running_var"].fill_(-1), "blocks.0.1.running_var"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    meta_model: Path, change: Callable[[dict[str, Tensor]], object], problem: str
) -> None:
    edit_weights(meta_model, change)
    with raises(ArtefactError, subject=str(meta_model / WEIGHTS), problem=problem, remedy="restore both files"):
        MetaModel.load(meta_model)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": "other"}, "(format: "),
        ({"format_version": 3}, ""),
        ({"networks": []}, "(networks: "),
        ({"seed": "x"}, "(seed: "),
        ({"code": "os.system"}, "(code: "),
        ({"networks": [{}]}, "(networks.0."),
    ],
)
def test_a_description_that_does_not_fit_is_named(meta_model: Path, change: dict[str, Any], problem: str) -> None:
    edit_json(meta_model / DESCRIPTION, lambda content: content.update(change))
    with raises(ArtefactError, subject=str(meta_model / DESCRIPTION), problem=problem):
        MetaModel.load(meta_model)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"architecture": "os.system"}, "'os.system'"),
        ({"arguments": {"width": 5}}, "float32 [5"),
        ({"arguments": {"width": 4096}, "input_size": 1024, "classes": 1_000_000}, "float32 [4096"),
    ],
)
def test_a_network_that_does_not_fit_is_named(meta_model: Path, change: dict[str, Any], problem: str) -> None:
    edit_json(meta_model / DESCRIPTION, lambda content: content["networks"][0].update(change))
    with raises(ArtefactError, problem=problem):
        MetaModel.load(meta_model)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", "[" * 100_000])
def test_a_damaged_description_is_an_error_that_names_it(meta_model: Path, text: str) -> None:
    (meta_model / DESCRIPTION).write_text(text)
    with raises(ArtefactError, subject=str(meta_model / DESCRIPTION)):
        MetaModel.load(meta_model)
