import copy

import pytest
import torch
from sklearn.neighbors import NearestCentroid
from torch import Tensor, nn
from torch.nn import functional

from metazoo.errors import MetazooError, UsageError
from metazoo.learn.batch_norm import (
    BATCH_NORM_MODES,
    BatchNormMode,
    batch_statistics,
    store_statistics,
    stored_statistics,
    support_statistics,
)
from metazoo.learn.embedders import JointFeatures, PixelFeatures
from metazoo.learn.heads import COSINE_SCALE, FineTune, FittedHead, NearestMean, class_means, get_head, query_features
from metazoo.models import ClassifierSpec, ImageClassifier, build_classifier

LABELS = torch.tensor([2, 0, 1, 1, 0, 2, 1])


def classifier(seed: int = 0, architecture: str = "conv4") -> ImageClassifier:
    spec = ClassifierSpec(
        architecture=architecture,
        arguments={"width": 4},
        classes=3,
        input_size=16,
        channels=3,
        mean=(0.5, 0.4, 0.3),
        std=(0.25, 0.2, 0.3),
    )
    made = build_classifier(spec, torch.Generator().manual_seed(seed)).eval()
    store_statistics(made, pictures(16, seed=100 + seed))
    return made.requires_grad_(False)


def pictures(count: int, side: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_nearest_mean_predicts_as_the_nearest_centroid_of_scaled_features() -> None:
    module, support, query = classifier(), pictures(7), pictures(20, seed=1)
    adapted, fitted = NearestMean().fit(module, support, LABELS, 3)
    assert adapted is module
    scores = fitted.scores(query_features(adapted, query))
    with torch.no_grad():
        support_features = functional.normalize(module.features(support), dim=1).numpy()
        features = functional.normalize(module.features(query), dim=1).numpy()
    oracle = NearestCentroid().fit(support_features, LABELS.numpy())
    # Newer scikit-learn keeps the centroids of float32 features in float64.
    torch.testing.assert_close(fitted.weight, torch.from_numpy(oracle.centroids_).float())
    # On the unit sphere the cosine ranks as the distance does once the centroids are on it too.
    oracle.centroids_ /= (oracle.centroids_**2).sum(1, keepdims=True) ** 0.5
    assert scores.argmax(1).tolist() == oracle.predict(features).tolist()
    assert float(scores.abs().max()) <= 1 + 1e-6


def test_many_tasks_at_once_equal_one_by_one() -> None:
    features = torch.randn(4, 7, 5, generator=torch.Generator().manual_seed(0))
    query = torch.randn(4, 9, 5, generator=torch.Generator().manual_seed(1))
    together = NearestMean().fit_features(features, LABELS, 3).scores(query)
    for task in range(4):
        alone = NearestMean().fit_features(features[task], LABELS, 3).scores(query[task])
        torch.testing.assert_close(together[task], alone)
    linear = FittedHead("linear", features[:, :3], query[:, :3, 0])
    expected = torch.stack([functional.linear(query[t], features[t, :3], query[t, :3, 0]) for t in range(4)])
    torch.testing.assert_close(linear.scores(query), expected)


@pytest.mark.parametrize("mode", BATCH_NORM_MODES)
def test_nearest_mean_in_every_batch_norm_mode(mode: BatchNormMode) -> None:
    module, support, query = classifier(), pictures(7), pictures(6, seed=1)
    before = snapshot(module)
    adapted, fitted = NearestMean().fit(module, support, LABELS, 3, mode)
    scores = fitted.scores(query_features(adapted, query, mode))
    contexts = {
        "running": stored_statistics(module),
        "support": support_statistics(module, support),
        "query": batch_statistics(module),
    }
    with torch.no_grad(), contexts[mode]:
        weight = class_means(module.features(support), LABELS, 3)
        expected = functional.cosine_similarity(module.features(query)[:, None], weight[None], dim=2)
    torch.testing.assert_close(scores, expected)
    alone = fitted.scores(query_features(adapted, query[:2], mode))
    assert torch.allclose(alone, scores[:2], atol=1e-5) == (mode != "query")
    after = snapshot(module)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("mode", BATCH_NORM_MODES)
def test_fine_tuning_is_what_torch_optim_does(mode: BatchNormMode) -> None:
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


def test_batches_and_uint8_do_not_change_features() -> None:
    module = classifier()
    images = torch.randint(0, 256, (20, 3, 128, 128), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.no_grad():
        expected = module.features(images.float() / 255)
    torch.testing.assert_close(query_features(module, images), expected)  # 16 images a batch at this size


def test_probabilities_are_softmax_of_scaled_scores() -> None:
    features, weight = pictures(4).flatten(1), pictures(3, seed=1).flatten(1)
    cosine, linear = FittedHead("cosine", weight), FittedHead("linear", weight)
    scores = functional.cosine_similarity(features[:, None], weight[None], dim=2)
    torch.testing.assert_close(cosine.probabilities(features), torch.softmax(COSINE_SCALE * scores, 1))
    torch.testing.assert_close(linear.probabilities(features), torch.softmax(features @ weight.T, 1))


@pytest.mark.parametrize("name", ["nearest-mean", "fine-tune"])
@pytest.mark.parametrize(
    ("labels", "ways"),
    [
        (torch.tensor([0, 1, 0]), 3),
        (torch.tensor([0, 1, 3]), 3),
        (torch.tensor([0, 1]), 2),
        (torch.tensor([0.0, 1.0, 1.0]), 2),
        (torch.tensor([-1, 0, 1]), 2),
    ],
)
def test_labels_that_do_not_fit_are_refused(name: str, labels: Tensor, ways: int) -> None:
    with pytest.raises(UsageError, match="support labels"):
        get_head(name).fit(PixelFeatures(4), pictures(3, side=4), labels, ways)


@pytest.mark.parametrize("name", ["nearest-mean", "fine-tune"])
def test_broken_weights_are_named(name: str) -> None:
    module = classifier()
    next(module.parameters()).fill_(torch.nan)
    with pytest.raises(MetazooError, match="not finite"):
        get_head(name).fit(module, pictures(7), LABELS, 3)


def test_heads_by_name() -> None:
    assert isinstance(get_head("nearest-mean"), NearestMean)
    assert isinstance(get_head("fine-tune"), FineTune)
    with pytest.raises(UsageError, match="nearest-mean, fine-tune"):
        get_head("svm")
