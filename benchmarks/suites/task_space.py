"""Embedding and grouping the models of a zoo."""

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import SpectralClustering
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.measure import Case, Settings, Suite, Way, extrapolated, timed
from benchmarks.suites.examples import classifier, pixels, random
from metazoo.bank import Bank, ResidentBank
from metazoo.taskspace import (
    FisherEmbeddings,
    ImageNetProbe,
    Probe,
    ProbeConfig,
    TaskEmbedding,
    dissimilarity_matrix,
    group,
    similarity_matrix,
    train_probe,
)
from metazoo.taskspace.layer_squares import kept_blocks
from metazoo.taskspace.probe import FISHER_ENTRIES

GROUPS, PUBLISHED_IMAGES, PUBLISHED_BATCH, PUBLISHED_EPSILON = 5, 3000, 600, 1e-6
Fisher = dict[str, Tensor]


def published_fisher(network: nn.Module, images: Tensor, labels: Tensor, batch: int = PUBLISHED_BATCH) -> Fisher:
    """Squared gradients of the mean loss of each batch, averaged over batches; the network's mode is left as it is."""
    trained = {name: value for name, value in network.named_parameters() if value.requires_grad}
    fisher = {name: torch.zeros_like(value) for name, value in trained.items()}
    batches = list(zip(images.split(batch), labels.split(batch), strict=True))
    for part, targets in batches:
        network.zero_grad()
        functional.cross_entropy(network(part), targets).backward()
        for name, value in trained.items():
            assert value.grad is not None
            fisher[name] += value.grad.square() / len(batches)
    return fisher


def fisher_sample_by_sample(network: nn.Module, images: Tensor, labels: Tensor) -> Fisher:
    """The mean over the images of the squared gradient of one image's loss, by one backward pass each."""
    return published_fisher(network, images, labels, batch=1)


def published_similarity(fishers: Sequence[Fisher]) -> Tensor:
    """Pair by pair and tensor by tensor, as the official code of TGR; float64 [N, N], to 4 decimals."""
    similarity = torch.eye(len(fishers), dtype=torch.float64)
    for i, j in itertools.combinations(range(len(fishers)), 2):
        cosines = []
        for name in fishers[i]:
            first, second = fishers[i][name].flatten(), fishers[j][name].flatten()
            total = first + second + PUBLISHED_EPSILON
            cosines.append(functional.cosine_similarity(first / total, second / total, dim=0).item())
        similarity[i, j] = similarity[j, i] = round(sum(cosines) / len(cosines), 4)
    return similarity


def published_groups(similarity: Tensor) -> np.ndarray:
    """Spectral clustering with the dissimilarity as affinity."""
    clustering = SpectralClustering(GROUPS, affinity="precomputed", assign_labels="kmeans", n_init=30, random_state=42)
    return np.asarray(clustering.fit_predict((1 - similarity).numpy()))


def _default_groups(similarity: Tensor) -> object:
    names = [f"{index:04}" for index in range(len(similarity))]
    return group(dissimilarity_matrix(similarity), "dispersed", GROUPS, keys=names)


def _fishers(like: Fisher, count: int) -> list[Fisher]:
    """Log-normal values of the shapes of `like`; every seventh task is of the same kind, which makes it more alike."""
    draws, kinds = random(), 7

    def normal() -> Fisher:
        return {name: torch.randn(value.shape, generator=draws) for name, value in like.items()}

    common = [normal() for _ in range(kinds)]
    return [
        {name: 1e-4 * (common[index % kinds][name] + own).exp() for name, own in normal().items()}
        for index in range(count)
    ]


def _embeddings(fishers: Sequence[Fisher]) -> FisherEmbeddings:
    return FisherEmbeddings.stack([TaskEmbedding(f"{index:04}", fisher) for index, fisher in enumerate(fishers)])


def _trained(network: nn.Module) -> Fisher:
    return {name: value.detach() for name, value in network.named_parameters() if value.requires_grad}


def _kept(fisher: Fisher) -> Fisher:
    """What the library keeps of such a Fisher."""
    blocks = kept_blocks(fisher, FISHER_ENTRIES)
    return {name: blocks[name].of(value) if name in blocks else value for name, value in fisher.items()}


def _grouping_case(models: int, width: int) -> Case:
    """Similarity and grouping alone, with embeddings of the size of the default probe."""

    def prepare() -> dict[str, Way]:
        fishers = _fishers(_trained(classifier(width=width)), models)
        embeddings = _embeddings(fishers)
        return {
            "published: pair by pair, spectral": timed(lambda: published_groups(published_similarity(fishers))),
            "default: blocks of pairs, dispersed": timed(lambda: _default_groups(similarity_matrix(embeddings))),
        }

    name = f"similarity and grouping, {models} models, Conv4 probe"
    return Case(name, prepare, models, "models", "models", models, memory=models == 100)


def _fisher_case(images: int, width: int) -> Case:
    """The same Fisher of one task, by loops and by the library."""

    def prepare() -> dict[str, Way]:
        model = classifier(width=width)
        probe = Probe(model, {"task": 5})
        shown, labels = pixels(images, 32), torch.arange(images) % 5
        return {
            "one backward pass an image": timed(lambda: fisher_sample_by_sample(model, shown.float() / 255, labels)),
            "default: many images at once": timed(lambda: probe.embed("task", shown, labels)),
        }

    return Case(f"Fisher of one task of {images} images, Conv4 probe", prepare, images, "images", "images", images)


def _trained_probe(models: int, config: ProbeConfig, steps: int) -> Way:
    """Training the run's own probe, of which `steps` steps are done."""
    names = [f"model-{index}" for index in range(models)]
    with tempfile.TemporaryDirectory() as folder:
        bank = Bank.create(Path(folder) / "bank")
        for index, name in enumerate(names):
            bank.add(name, 0, 0, pixels(10, 32, index), torch.arange(10) % 5)
        resident = ResidentBank.load(bank, names, config.input_size)
    fewer = config.model_copy(update={"steps": steps})
    counts = dict.fromkeys(names, 5)
    return extrapolated(lambda check: train_probe(resident, counts, fewer, 0, after_step=check), config.steps)


def _whole_case(models: int, quick: bool) -> Case:
    """Everything for a zoo, put together from one model's Fisher and the grouping of all.

    Pair by pair, which costs every pair alike, only some pairs are compared.
    """
    few, batch = (3, 10) if quick else (4, 150)
    config = ProbeConfig(width=4, steps=6, fisher_images=10) if quick else ProbeConfig()

    def prepare() -> dict[str, Way]:
        large = _large_probe(quick)
        distance_like = torch.rand(models, models, generator=random(), dtype=torch.float64)
        similarity = (distance_like + distance_like.T).div(2).fill_diagonal_(1)
        pairs, all_pairs = few * (few - 1) / 2, models * (models - 1) / 2
        large_fishers = _fishers(_trained(large), few)
        large_embeddings = _embeddings(_fishers(_kept(_trained(large)), models))
        own = classifier(width=config.width)
        own_embeddings = _embeddings(_fishers(_trained(own), models))
        some = pixels(batch, 32)
        labels = torch.arange(batch) % 5
        fewer, fewer_labels = some[: config.fisher_images], labels[: config.fisher_images]

        def all_of(*ways: Way) -> Way:
            return lambda: sum(way() for way in ways)

        def as_published() -> object:
            return published_fisher(large.train(), some.float() / 255, labels, batch)

        return {
            f"published: ResNet-34, {PUBLISHED_IMAGES} images a model, pair by pair, spectral": all_of(
                timed(as_published, batch / PUBLISHED_IMAGES / models),
                timed(lambda: published_similarity(large_fishers), pairs / all_pairs),
                timed(lambda: published_groups(similarity)),
            ),
            f"the same probe, {config.fisher_images} images a model by sample, blocks, dispersed": all_of(
                timed(lambda: ImageNetProbe(large).embed("task", fewer, fewer_labels), 1 / models),
                timed(lambda: _default_groups(similarity_matrix(large_embeddings))),
            ),
            "default: a Conv4 probe trained on the bank, all else the same": all_of(
                _trained_probe(models, config, 6),
                timed(lambda: Probe(own, {"task": 5}).embed("task", fewer, fewer_labels), 1 / models),
                timed(lambda: _default_groups(similarity_matrix(own_embeddings))),
            ),
        }

    return Case(f"Fisher, similarity and grouping, {models} models", prepare, models, "models")


def _large_probe(quick: bool) -> nn.Module:
    if quick:
        return classifier("resnet10", width=2, classes=10)
    from torchvision.models import resnet34

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return resnet34()


def cases(settings: Settings) -> list[Case]:
    if settings.quick:
        return [_whole_case(6, True), _grouping_case(6, 4), _grouping_case(8, 4), _fisher_case(4, 4)]
    return [
        _whole_case(100, False),
        *(_grouping_case(models, 32) for models in (25, 50, 100)),
        *(_fisher_case(images, 32) for images in (75, 150, 300)),
    ]


SUITE = Suite(
    "task-space",
    "Embedding a zoo by Fisher information, comparing all pairs of models, grouping; random weights and images.",
    cases,
)
