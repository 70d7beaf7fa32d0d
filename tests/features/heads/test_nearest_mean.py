import pytest
import torch
from heads_helpers import LABELS, classifier, clusters, pictures
from sklearn.neighbors import NearestCentroid
from torch.nn import functional

from metazoo.features.batch_norm import (
    BATCH_NORM_MODES,
    BatchNormMode,
    batch_statistics,
    stored_statistics,
    support_statistics,
)
from metazoo.features.heads import NearestMean, NearestMeanEuclidean, class_means, query_features


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


@pytest.mark.parametrize("mode", BATCH_NORM_MODES)
def test_nearest_mean_in_every_batch_norm_mode(mode: BatchNormMode) -> None:
    module, support, query = classifier(), pictures(7), pictures(6, seed=1)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
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
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_euclidean_scores_are_squared_distances_to_the_means_but_for_a_constant_of_each_query() -> None:
    support, query = clusters(1, 4)[0][:7] * 3, clusters(1, 6, seed=1)[0]
    scores = NearestMeanEuclidean().fit_features(support, LABELS, 3).scores(query)
    means = torch.stack([support[label == LABELS].mean(0) for label in range(3)])
    distances = torch.cdist(query, means).square()
    torch.testing.assert_close(scores - query.square().sum(1, keepdim=True), -distances)
    oracle = NearestCentroid().fit(support.numpy(), LABELS.numpy())
    assert scores.argmax(1).tolist() == oracle.predict(query.numpy()).tolist()
    # The length of a feature counts, as it does not for the cosine.
    longer = torch.stack([means[0], 4 * means[1]])
    assert NearestMeanEuclidean().fit_features(longer, torch.tensor([0, 1]), 2).scores(means[1]).argmax() == 0
    assert NearestMean().fit_features(longer, torch.tensor([0, 1]), 2).scores(means[1]).argmax() == 1
