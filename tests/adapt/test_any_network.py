"""A meta-model of any architecture is saved, loaded, adapted and merged."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from adapt_helpers import LABELS, NAMES, content, pictures
from torch import nn

from metazoo.adapt import FewShotClassifier, MetaModel
from metazoo.features.batch_norm import store_statistics
from metazoo.features.domain_router import DomainRecogniser
from metazoo.features.embedders import MultiDomainClassifier
from metazoo.models import AdapterSpec, ClassifierSpec, ImageClassifier, architectures, build_classifier

OWN = ("conv4", "thin-resnet", "resnet10", "resnet50", "cifar-resnet20", "resnet12", "wide-resnet", "densenet-bc",
       "vgg11-bn", "mobilenet-v2", "shufflenet-v2", "lenet5")  # fmt: skip
WIDTHS: dict[str, Any] = dict.fromkeys(OWN, 4) | {"conv4": (3, 4, 5, 6), "thin-resnet": 5, "resnet10": 6}
WIDTHS |= {"wide-resnet": 1}
SIZES = {"conv4": 24, "thin-resnet": 20}
LIBRARIES = (
    "timm:test_vit",
    "timm:test_convnext",
    "timm:test_efficientnet",
    "torchvision:mobilenet_v3_small",
    "transformers:ViTForImageClassification",
)
SMALL_VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}


def built(architecture: str, seed: int = 0, adapter: AdapterSpec | None = None) -> ImageClassifier:
    arguments: dict[str, Any] = {"width": WIDTHS[architecture]} if architecture in WIDTHS else {}
    arguments = SMALL_VIT if architecture.startswith("transformers") else arguments
    spec = ClassifierSpec(
        architecture=architecture, arguments=arguments, classes=3, input_size=SIZES.get(architecture, 32),
        adapter=adapter, mean=(0.5,) * 3, std=(0.25,) * 3,
    )  # fmt: skip
    made = build_classifier(spec, torch.Generator().manual_seed(seed)).eval()
    for name, parameter in made.named_parameters():
        if name.endswith(".up"):
            nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(seed))
    store_statistics(made, pictures(16, 32, seed=9))
    return made.requires_grad_(False)


def of_domains(architecture: str) -> MultiDomainClassifier:
    networks = [built(architecture, seed) for seed in range(2)]
    size = networks[0].network.feature_size
    weight = torch.zeros(2 * size + 1, 2)
    weight[0] = torch.tensor([0.5, -0.5])
    return MultiDomainClassifier(networks, DomainRecogniser(("birds", "ships"), weight)).eval()


def test_all_families_of_architectures_are_tested() -> None:
    def family(name: str) -> str:
        return re.sub(r"\d+(-bn)?$", "", name)

    assert {family(name) for name in WIDTHS} == {family(name) for name in architectures()}


FORMS = {
    "plain": [*WIDTHS, *LIBRARIES],
    "adapters": ["conv4", "thin-resnet", "resnet10", *LIBRARIES],
    "domains": ["conv4", "resnet10", "timm:test_vit"],
}


@pytest.mark.parametrize(("form", "architecture"), [(form, name) for form, names in FORMS.items() for name in names])
def test_a_meta_model_of_any_architecture(form: str, architecture: str, tmp_path: Path) -> None:
    adapter = AdapterSpec(rank=2, alpha=1) if form == "adapters" else None
    module = of_domains(architecture) if form == "domains" else built(architecture, adapter=adapter)
    MetaModel(module, method="tgr", preset="default", seed=0).save(tmp_path / "m")
    loaded = MetaModel.load(tmp_path / "m")
    assert loaded.spec.adapter == adapter
    assert torch.equal(loaded.module.features(pictures(3, 32)), module.features(pictures(3, 32)))
    loaded.save(tmp_path / "again")
    assert content(tmp_path / "again") == content(tmp_path / "m")
    assert ("adapters of rank 2" in loaded.card) == (form == "adapters")
    for batch_norm, head in (("support", "ridge"), ("running", "nearest-mean")):
        words = {"batch_norm": batch_norm, "head": head, "mirrored": True}
        classifier = loaded.adapt(pictures(7, 40), LABELS, NAMES, **words)
        classifier.save(tmp_path / head)
        query = pictures(4, 50, seed=1)
        expected = classifier.predict(query).probabilities
        torch.testing.assert_close(expected.sum(1), torch.ones(4))
        assert torch.equal(FewShotClassifier.load(tmp_path / head).predict(query).probabilities, expected)
    if isinstance(module, ImageClassifier) and adapter is not None:
        merged = MetaModel(module.merged(), method="tgr", preset="default", seed=0)
        torch.testing.assert_close(merged.module.features(query), loaded.module.features(query))
