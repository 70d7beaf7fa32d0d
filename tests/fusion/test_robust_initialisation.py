"""DRO in coordinates of the models, against maps with one row for each parameter and gradients by autograd."""

import pytest
import torch
from fusion_helpers import Sharing, classifier, sharing
from plugins.plugin_helpers import without_plugins
from torch import Tensor

from metazoo.fusion import RobustInitialisation, layers_of, scaled_products, weighted_sum
from metazoo.fusion.average import feature_tensors
from metazoo.models import register_architecture

RATES = {"gamma": 1.5, "inner_rate": 0.05, "learning_rate": 0.1}
SIZE, MODELS = 3, 4


def some_layers(random: torch.Generator) -> list[Tensor]:
    scales = (0.1, 3.0)
    return [scale * torch.randn(MODELS, count, generator=random) for scale, count in zip(scales, (7, 5), strict=True)]


def learner_of(layers: list[Tensor], random: torch.Generator, **changes: float) -> RobustInitialisation:
    embeddings = torch.randn(MODELS, SIZE, generator=random) / SIZE**0.5
    split = torch.tensor([2, 0]), torch.tensor([1, 3])
    return RobustInitialisation(scaled_products(layers), *split, embeddings, **{**RATES, **changes})


class Maps:
    """Explicit map of every layer, and one update of the algorithm by automatic differentiation."""

    def __init__(self, layers: list[Tensor], embeddings: Tensor) -> None:
        self.layers = [layer.double() for layer in layers]
        self.embeddings = embeddings.clone()
        spreads = [((layer - layer.mean(0)) ** 2).sum(1).mean() for layer in self.layers]
        self.sigma = [(len(layers) * spread) ** 0.5 for spread in spreads]
        # In units of sigma, as the step size.
        self.maps = [torch.zeros(layer.shape[1], SIZE, dtype=torch.float64) for layer in self.layers]
        self.biases = [layer.mean(0) / sigma for layer, sigma in zip(self.layers, self.sigma, strict=True)]

    def log_likelihood(self, maps: list[Tensor], biases: list[Tensor], embedding: Tensor, model: int) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for weight, bias, layer, sigma in zip(maps, biases, self.layers, self.sigma, strict=True):
            total = total - ((sigma * (weight @ embedding + bias) - layer[model]) ** 2).sum() / sigma**2
        return total

    def gradients(
        self, maps: list[Tensor], biases: list[Tensor], embedding: Tensor, model: int
    ) -> tuple[list[Tensor], list[Tensor], Tensor]:
        leaves = [value.detach().clone().requires_grad_() for value in (*maps, *biases, embedding)]
        count = len(maps)
        found = torch.autograd.grad(self.log_likelihood(leaves[:count], leaves[count:-1], leaves[-1], model), leaves)
        return [*found[:count]], [*found[count:-1]], found[-1]

    def inner(self, fitted: int) -> tuple[list[Tensor], list[Tensor]]:
        to_maps, to_biases, _ = self.gradients(self.maps, self.biases, self.embeddings[fitted], fitted)
        rate = RATES["inner_rate"]
        ascent = ((self.maps, to_maps), (self.biases, to_biases))
        maps, biases = ([old + rate * step for old, step in zip(*pair, strict=True)] for pair in ascent)
        return maps, biases

    def adversarial(self, maps: list[Tensor], biases: list[Tensor], model: int) -> Tensor:
        embedding, gamma = self.embeddings[model], RATES["gamma"]
        moved = embedding.clone().requires_grad_()
        objective = self.log_likelihood(maps, biases, moved, model) + gamma * (moved - embedding).square().sum()
        return embedding - torch.autograd.grad(objective, moved)[0] / (2 * gamma)

    def update(self, fitted: int, predicted: int) -> float:
        maps, biases = self.inner(fitted)
        moved = self.adversarial(maps, biases, predicted)
        to_maps, to_biases, to_embedding = self.gradients(maps, biases, moved, predicted)
        rate = RATES["learning_rate"]
        self.maps = [old + rate * step for old, step in zip(self.maps, to_maps, strict=True)]
        self.biases = [old + rate * step for old, step in zip(self.biases, to_biases, strict=True)]
        self.embeddings[predicted] += rate * to_embedding
        return float(self.log_likelihood(maps, biases, moved, predicted))

    def initialisation(self) -> list[Tensor]:
        mean = self.embeddings.mean(0)
        return [
            sigma * (weight @ mean + bias)
            for sigma, weight, bias in zip(self.sigma, self.maps, self.biases, strict=True)
        ]


def test_every_update_is_that_of_explicit_maps() -> None:
    random = torch.Generator().manual_seed(0)
    layers = some_layers(random)
    learner = learner_of(layers, random)
    explicit = Maps(layers, learner.embeddings)
    for fitted, predicted in [(2, 1), (0, 3), (0, 1), (2, 3)] * 5:
        found, wanted = learner.update(fitted, predicted), explicit.update(fitted, predicted)
        assert found == pytest.approx(wanted, rel=1e-9)
        torch.testing.assert_close(learner.embeddings, explicit.embeddings)
        for own, layer in zip(explicit.initialisation(), explicit.layers, strict=True):
            torch.testing.assert_close(learner.weights @ layer, own)
    assert float(learner.weights.sum()) == pytest.approx(1.0)


def test_without_an_adversary_it_is_plain_likelihood() -> None:
    """The price decides how far the embedding moves, and an infinite one leaves the likelihood at the embedding."""
    layers = some_layers(torch.Generator().manual_seed(1))
    found = []
    for gamma in (1.0, 1e3, 1e12):
        learner = learner_of(layers, torch.Generator().manual_seed(2), gamma=gamma)
        explicit = Maps(layers, learner.embeddings)
        for fitted, predicted in [(2, 1), (0, 3)]:
            learner.update(fitted, predicted)
            maps, biases = explicit.inner(fitted)
            to_maps, to_biases, to_embedding = explicit.gradients(
                maps, biases, explicit.embeddings[predicted], predicted
            )
            rate = RATES["learning_rate"]
            explicit.maps = [old + rate * step for old, step in zip(explicit.maps, to_maps, strict=True)]
            explicit.biases = [old + rate * step for old, step in zip(explicit.biases, to_biases, strict=True)]
            explicit.embeddings[predicted] += rate * to_embedding
        found.append(float((learner.weights @ explicit.layers[0] - explicit.initialisation()[0]).abs().max()))
    assert found[0] > 100 * found[1] > 0
    assert found[2] < 1e-10


def test_a_step_updates_every_model_of_the_outer_step_once() -> None:
    layers = some_layers(torch.Generator().manual_seed(3))
    learner = learner_of(layers, torch.Generator().manual_seed(4))
    start = learner.embeddings.clone()
    first = learner.step(torch.Generator().manual_seed(5))
    assert (learner.embeddings != start).any(1).tolist() == [False, True, False, True]
    random = torch.Generator().manual_seed(5)
    later = [learner.step(random) for _ in range(200)]
    assert later[-1] > 0.5 * first


def test_identical_models_are_reproduced() -> None:
    model = classifier("conv4", width=4)
    products = scaled_products(layers_of([model] * 5))
    assert not products.any()
    random = torch.Generator().manual_seed(0)
    learner = RobustInitialisation(products, torch.arange(4), torch.tensor([4]), torch.randn(5, 7, generator=random))
    for _ in range(20):
        learner.step(random)
    fused = weighted_sum([model] * 5, learner.weights, model.spec)
    assert fused is not None
    wanted = feature_tensors(model)
    for name, tensor in feature_tensors(fused).items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-6, atol=1e-7)


def test_layers_are_all_parameters_and_nothing_else() -> None:
    models = [classifier("thin-resnet", seed, width=4) for seed in range(2)]
    layers = [*layers_of(models)]
    counts = [
        sum(each.numel() for name, each in model.network.named_parameters() if "head" not in name) for model in models
    ]
    assert [sum(layer.shape[1] for layer in layers)] * 2 == counts
    norm = models[1].network.get_submodule("stem.1")
    found = [layer[1] for layer in layers if layer.shape[1] == 8]
    assert any(torch.equal(layer, torch.cat([norm.weight, norm.bias])) for layer in found)  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_products_count_each_layer_alike() -> None:
    layers = [*some_layers(torch.Generator().manual_seed(6)), torch.ones(MODELS, 9)]
    products = scaled_products(layers)
    wanted = torch.zeros(MODELS, MODELS, dtype=torch.float64)
    for layer in layers[:2]:
        centred = layer.double() - layer.double().mean(0)
        for i in range(MODELS):
            for j in range(MODELS):
                wanted[i, j] += (centred[i] * centred[j]).sum() / (3 * (centred**2).sum() / MODELS)
    torch.testing.assert_close(products, wanted)
    assert float(products.trace()) == pytest.approx(MODELS * 2 / 3)


def test_a_weighted_sum_sums_parameters_and_averages_buffers() -> None:
    models = [classifier("conv4", seed, width=4) for seed in range(3)]
    weights = torch.tensor([-0.5, 1.2, 0.3], dtype=torch.float64)
    found = weighted_sum(models, weights, models[0].spec)
    assert found is not None
    states = [feature_tensors(model) for model in models]
    for name, tensor in feature_tensors(found).items():
        if name.endswith("num_batches_tracked"):
            continue
        own = [1 / 3] * 3 if "running" in name else weights.tolist()
        wanted = sum(weight * state[name] for weight, state in zip(own, states, strict=True))
        torch.testing.assert_close(tensor, wanted, rtol=1e-5, atol=1e-6)
    assert not found.network.head.weight.any()


def test_a_weighted_sum_counts_shared_parameters_once() -> None:
    with without_plugins():
        register_architecture("sharing", Sharing)
        models = [sharing(seed) for seed in range(3)]
        weights = torch.tensor([-0.5, 1.2, 0.3], dtype=torch.float64)
        found = weighted_sum(models, weights, models[0].spec)
    assert found is not None
    own = [dict(model.network.named_parameters()) for model in models]
    for name, tensor in found.network.named_parameters():
        if not name.startswith("head."):
            wanted = sum(float(weight) * each[name].detach() for weight, each in zip(weights, own, strict=True))
            torch.testing.assert_close(tensor.detach(), wanted, rtol=1e-5, atol=1e-6)
