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
from torch import Tensor

from metazoo.adapt import FewShotClassifier, MetaModel
from metazoo.errors import ArtefactError, UsageError
from metazoo.features.domain_router import DomainRecogniser
from metazoo.features.embedders import MultiDomainClassifier

DESCRIPTION, WEIGHTS, CARD = "bundle.json", "model.safetensors", "README.md"


def test_what_is_saved_is_loaded(meta_model: Path) -> None:
    loaded = MetaModel.load(meta_model)
    assert (loaded.method, loaded.preset, loaded.seed) == ("tgr", "default", 3)
    (own,) = loaded.networks
    assert own is loaded.module
    assert own.spec == loaded.spec == network().spec
    assert torch.equal(own.features(pictures(5)), network().features(pictures(5)))
    assert not own.training
    assert not any(parameter.requires_grad for parameter in own.parameters())


def test_the_names_of_the_files_are_said(tmp_path: Path) -> None:
    names = MetaModel(network(), method="tgr", preset="default", seed=3).save(tmp_path / "new" / "one")
    assert set(names) == content(tmp_path / "new" / "one").keys() == {DESCRIPTION, WEIGHTS, CARD}


def test_it_says_what_it_is(meta_model: Path, two_domains: Path) -> None:
    assert repr(MetaModel.load(meta_model)) == (
        "MetaModel(tgr, preset default, seed 3: conv4 of 16 pixels, 4 features)"
    )
    assert repr(MetaModel.load(two_domains)).endswith("conv4 of 16 pixels, 4 features, domains birds, ships)")


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        ("run", "is a run, not a meta-model; give a meta-model folder, such as RUN/meta-model"),
        ("zoo", "is a zoo, not a meta-model; give a meta-model folder"),
    ],
)
def test_folders_of_other_kinds_are_named(tmp_path: Path, kind: str, remedy: str) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / f"{kind}.json").write_text("{}")
    with pytest.raises(UsageError, match=remedy):
        MetaModel.load(tmp_path / "here")
    with pytest.raises(UsageError, match=f"is a {kind}, not a classifier; give a classifier folder as adapt writes it"):
        FewShotClassifier.load(tmp_path / "here")


def test_saving_again_gives_equal_bytes(meta_model: Path, tmp_path: Path) -> None:
    MetaModel.load(meta_model).save(tmp_path / "again")
    assert content(tmp_path / "again") == content(meta_model)


@pytest.mark.parametrize("head", ["nearest-mean", "fine-tune"])
def test_a_meta_model_adapts_as_its_network(meta_model: Path, head: str) -> None:
    classifier = MetaModel.load(meta_model).adapt(pictures(7), LABELS, NAMES, head=head, batch_norm="support")
    assert torch.equal(predicted(classifier), predicted(made(head=head, batch_norm="support")))
    assert classifier.description.source == "tgr (default), seed 3"
    assert (classifier.description.head, classifier.description.batch_norm) == (head, "support")


def test_specialists_are_saved_and_loaded(two_domains: Path, tmp_path: Path) -> None:
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
    ("change", "message"),
    [
        (lambda t: t.pop("recogniser.weight"), "lacks tensor recogniser.weight"),
        (lambda t: t.pop("networks.1.head.bias"), "lacks tensor networks.1.head.bias"),
        (
            lambda t: t.update({"recogniser.weight": torch.zeros(9, 3)}),
            r"recogniser.weight as float32 \[9, 3\]",
        ),
        (
            lambda t: t["recogniser.weight"][1].fill_(torch.nan),
            "tensor recogniser.weight that are not finite",
        ),
    ],
)
def test_damaged_specialists_are_named(
    two_domains: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    edit_weights(two_domains, change)
    with pytest.raises(ArtefactError, match=message):
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
        with pytest.raises(ArtefactError, match="one"):
            MetaModel.load(tmp_path / "one")


@pytest.mark.parametrize("domains", [[], ["birds"], ["birds", "birds"], ["a", "b", "c"]])
def test_domains_that_do_not_fit_the_specialists_are_named(two_domains: Path, domains: list[str]) -> None:
    edit_json(two_domains / DESCRIPTION, lambda content: content.update(domains=domains))
    with pytest.raises(ArtefactError, match="of-two-domains"):
        MetaModel.load(two_domains)


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none is not a folder; give a meta-model folder, such as RUN/meta-model"):
        MetaModel.load(tmp_path / "none")
    with pytest.raises(ArtefactError, match=r"bundle.json: is missing"):
        MetaModel.load(tmp_path)


def test_a_missing_or_changed_file_is_named(meta_model: Path) -> None:
    path = meta_model / WEIGHTS
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b"\x80\x05."):
        path.write_bytes(damaged)
        with pytest.raises(ArtefactError, match=f"{path}: has changed since it was written"):
            MetaModel.load(meta_model)
    path.unlink()
    with pytest.raises(ArtefactError, match=f"{path}: is missing"):
        MetaModel.load(meta_model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("head.bias"), "lacks tensor head.bias"),
        (lambda t: t.update(more=torch.zeros(1)), "has a tensor 'more' that the architecture does not"),
        (
            lambda t: t.update({"head.bias": torch.zeros(4)}),
            r"bundle.json: it has tensor head.bias as float32 \[4\], it must be float32 \[3\]; restore both",
        ),
        (lambda t: t.update({"head.bias": torch.zeros(5).half()}), "head.bias as float16"),
        (lambda t: t["blocks.0.0.weight"].fill_(torch.nan), "values in tensor blocks.0.0.weight that are not finite"),
        (lambda t: t["blocks.0.1.running_var"].fill_(-1), "negative variance in tensor blocks.0.1.running_var"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    meta_model: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    edit_weights(meta_model, change)
    with pytest.raises(ArtefactError, match=message):
        MetaModel.load(meta_model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "does not describe a meta-model"),
        ({"format_version": 3}, "has format version 3, this metazoo reads 2; update metazoo"),
        ({"networks": []}, "does not describe a meta-model"),
        ({"seed": "x"}, "does not describe a meta-model"),
        ({"code": "os.system"}, "does not describe a meta-model"),
        ({"networks": [{}]}, "does not describe a meta-model"),
    ],
)
def test_a_description_that_does_not_fit_is_named(meta_model: Path, change: dict[str, Any], message: str) -> None:
    edit_json(meta_model / DESCRIPTION, lambda content: content.update(change))
    with pytest.raises(ArtefactError, match=f"{meta_model / DESCRIPTION}:? {message}"):
        MetaModel.load(meta_model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "os.system"}, "unknown architecture 'os.system'"),
        ({"arguments": {"width": 5}}, "as float32"),
        ({"arguments": {"width": 4096}, "input_size": 1024, "classes": 1_000_000}, "as float32"),
    ],
)
def test_a_network_that_does_not_fit_is_named(meta_model: Path, change: dict[str, Any], message: str) -> None:
    edit_json(meta_model / DESCRIPTION, lambda content: content["networks"][0].update(change))
    with pytest.raises(ArtefactError, match=message):
        MetaModel.load(meta_model)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", "[" * 100_000])
def test_a_damaged_description_is_an_error_that_names_it(meta_model: Path, text: str) -> None:
    (meta_model / DESCRIPTION).write_text(text)
    with pytest.raises(ArtefactError, match=f"{meta_model / DESCRIPTION}:? is not (valid JSON|the descr)"):
        MetaModel.load(meta_model)
