import numpy as np
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


def test_euclidean_scores_are_squared_distances_up_to_a_constant_per_query() -> None:
    support, query = clusters(1, 4)[0][:7] * 3, clusters(1, 6, seed=1)[0]
    scores = NearestMeanEuclidean().fit_features(support, LABELS, 3).scores(query)
    means = torch.stack([support[label == LABELS].mean(0) for label in range(3)])
    distances = torch.cdist(query, means).square()
    torch.testing.assert_close(scores - query.square().sum(1, keepdim=True), -distances)
    oracle = NearestCentroid().fit(support.numpy(), LABELS.numpy())
    assert scores.argmax(1).tolist() == oracle.predict(query.numpy()).tolist()
    # The length of a feature counts, as it does not for the cosine.
    longer = torch.stack([means[0], 4 * means[1]])
    assert NearestMeanEuclidean().fit_features(longer, torch.tensor([0, 1]), 2).scores(means[1:2]).argmax() == 0
    assert NearestMean().fit_features(longer, torch.tensor([0, 1]), 2).scores(means[1:2]).argmax() == 1


@pytest.mark.parametrize("squared_distance", [True, False])
def test_probabilities_are_those_of_prototypes_in_float64(squared_distance: bool) -> None:
    """Snell et al. 2017 in NumPy, image by image: softmax of minus the squared distance, or of ten times the cosine."""
    features, queries = (torch.randn(count, 12, generator=torch.Generator().manual_seed(count)) for count in (7, 9))
    head = NearestMeanEuclidean() if squared_distance else NearestMean()
    found = head.fit_features(features, LABELS, 3).probabilities(queries).numpy()
    support = features.numpy().astype(np.float64)
    if not squared_distance:
        support /= np.linalg.norm(support, axis=1, keepdims=True)
    for query, probabilities in zip(queries.numpy().astype(np.float64), found, strict=True):
        scores = []
        for label in range(3):
            prototype = np.mean([support[index] for index in range(7) if LABELS[index] == label], axis=0)
            cosine = prototype @ query / np.linalg.norm(prototype) / np.linalg.norm(query)
            scores.append(-np.sum((query - prototype) ** 2) if squared_distance else 10 * cosine)
        expected = np.exp(scores) / np.exp(scores).sum()
        np.testing.assert_allclose(probabilities, expected, rtol=1e-4, atol=1e-7)
