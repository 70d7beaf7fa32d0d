import copy

import pytest
import torch
from error_checks import raises
from heads_helpers import LABELS, classifier, pictures
from torch import Tensor, nn
from torch.nn import functional

from metazoo.errors import MetazooError, UsageError
from metazoo.features.batch_norm import BATCH_NORM_MODES, BatchNormMode, support_statistics
from metazoo.features.embedders import JointFeatures, PixelFeatures
from metazoo.features.heads import FineTune, FineTuneOwn, FittedHead, class_means, query_features
from metazoo.models import ImageClassifier


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("mode", BATCH_NORM_MODES)
def test_fine_tuning_equals_torch_optim(mode: BatchNormMode) -> None:
    module, support, query = classifier(), pictures(7), pictures(6, seed=1)
    before = snapshot(module)
    adapted, fitted = FineTune().fit(module, support, LABELS, 3, mode)
    scores = fitted.scores(query_features(adapted, query, mode))

    oracle = copy.deepcopy(module).requires_grad_(True)
    layers = [part for part in oracle.modules() if isinstance(part, nn.BatchNorm2d)]
    if mode != "running":
        for layer in layers:
            layer.train()
    with torch.no_grad():
        means = class_means(oracle.features(support), LABELS, 3)
    head = nn.Linear(means.shape[1], 3)
    with torch.no_grad():
        head.weight.copy_(means / means.norm(dim=1, keepdim=True))
        head.bias.zero_()
    optimiser = torch.optim.SGD([*oracle.parameters(), *head.parameters()], lr=0.01)
    for _ in range(10):
        optimiser.zero_grad()
        functional.cross_entropy(head(oracle.features(support)), LABELS).backward()
        optimiser.step()
    with torch.no_grad():
        if mode == "support":
            with support_statistics(oracle, support):
                expected = head(oracle.features(query))
        else:
            expected = head(oracle.features(query))
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fitted.weight, head.weight.detach(), atol=1e-5, rtol=1e-4)

    assert adapted is not module
    assert isinstance(adapted, ImageClassifier)
    tuned = adapted.state_dict()
    scale = "network.blocks.0.1.weight"
    assert not torch.equal(tuned[scale], before[scale])
    assert torch.equal(tuned["network.head.weight"], before["network.head.weight"])
    assert not any(parameter.requires_grad for parameter in adapted.parameters())
    after = snapshot(module)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_fine_tuning_lowers_the_loss_and_is_deterministic() -> None:
    module, support = classifier(architecture="thin-resnet"), pictures(7)
    start = FittedHead("linear", functional.normalize(class_means(module.features(support), LABELS, 3), dim=1))
    first, again = (FineTune().fit(module, support, LABELS, 3) for _ in range(2))
    losses = [
        float(functional.cross_entropy(fitted.scores(query_features(network, support)), LABELS))
        for network, fitted in ((module, start), first)
    ]
    assert losses[1] < losses[0]
    assert torch.equal(first[1].weight, again[1].weight)


def test_diverging_fine_tuning_is_an_error() -> None:
    module = classifier()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1000)
    assert bool(module.features(pictures(7)).isfinite().all())
    with raises(MetazooError, subject="fine-tuning", problem="0.01", remedy="another head"):
        FineTune().fit(module, pictures(7), LABELS, 3)


def test_fine_tuning_works_where_gradients_are_switched_off() -> None:
    with torch.no_grad():
        _, fitted = FineTune().fit(classifier(), pictures(7), LABELS, 3)
    assert fitted.bias is not None
    assert bool((fitted.bias != 0).any())


def test_fine_tuning_pixels_trains_the_head_alone() -> None:
    module, support = PixelFeatures(4), pictures(7)
    adapted, fitted = FineTune().fit(module, support, LABELS, 3)
    features = query_features(adapted, support)
    assert torch.equal(features, query_features(module, support))
    head = nn.Linear(48, 3)
    with torch.no_grad():
        head.weight.copy_(functional.normalize(class_means(features, LABELS, 3), dim=1))
        head.bias.zero_()
    optimiser = torch.optim.SGD(head.parameters(), lr=0.01)
    for _ in range(10):
        optimiser.zero_grad()
        functional.cross_entropy(head(features), LABELS).backward()
        optimiser.step()
    torch.testing.assert_close(fitted.weight, head.weight.detach())


def test_every_member_of_an_ensemble_is_fine_tuned() -> None:
    joint = JointFeatures([classifier(0), classifier(1, "thin-resnet")])
    adapted, _ = FineTune().fit(joint, pictures(7), LABELS, 3)
    for old, new in zip(joint.named_parameters(), adapted.parameters(), strict=True):
        assert torch.equal(old[1], new) == ("head" in old[0])


def test_fine_tune_own_trains_a_copy_of_the_whole_network() -> None:
    module, support, query = classifier(), pictures(7), pictures(6, seed=1)
    nn.init.normal_(module.network.head.weight, generator=torch.Generator().manual_seed(3))
    adapted, fitted = FineTuneOwn().fit(module, support, LABELS, 3, "query")
    oracle = copy.deepcopy(module).requires_grad_(True).train()
    optimiser = torch.optim.SGD(oracle.parameters(), lr=0.01)
    for _ in range(10):
        optimiser.zero_grad()
        functional.cross_entropy(oracle(support), LABELS).backward()
        optimiser.step()
    scores = fitted.scores(query_features(adapted, query, "query"))
    torch.testing.assert_close(scores, oracle(query).detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("module", "found"), [(classifier(), "head of 3"), (PixelFeatures(16), "no head")])
def test_a_model_without_a_head_of_that_many_classes_is_refused(module: ImageClassifier, found: str) -> None:
    support = pictures(4)
    with raises(UsageError, subject="fine-tune-own", problem=found, remedy="fine-tune"):
        FineTuneOwn().fit(module, support, torch.tensor([0, 0, 1, 1]), 2)


def test_fine_tuning_from_a_head_of_zeros_is_refused() -> None:
    module = classifier()
    nn.init.zeros_(module.network.head.weight)
    with raises(UsageError, subject="fine-tune-own", problem="zeros", remedy="fine-tune"):
        FineTuneOwn().fit(module, pictures(7), LABELS, 3)
