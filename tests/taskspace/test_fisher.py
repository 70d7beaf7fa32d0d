import json
import re

import pytest
import torch
from error_checks import raises
from torch import Tensor, nn
from torch.nn import functional

from metazoo.errors import ArtefactError, DataError, UsageError
from metazoo.models import build_network
from metazoo.storage.tensor_files import write_tensors
from metazoo.taskspace import FisherEmbeddings, TaskEmbedding, diagonal_fisher, similarity_matrix, write_embeddings
from metazoo.taskspace.fisher import absorbed_biases
from metazoo.taskspace.layer_squares import kept_blocks

SAMPLES, CLASSES, SIDE = 11, 4, 16


@pytest.fixture(params=["conv4", "thin-resnet"])
def task(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = build_network(request.param, classes=CLASSES, channels=3, input_size=SIDE, arguments={"width": 4})
    images = torch.randn(SAMPLES, 3, SIDE, SIDE, generator=generator)
    labels = torch.randint(CLASSES, (SAMPLES,), generator=generator)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        network.train()
        for _ in range(20):
            network(images)  # running statistics differ from those of any batch
    return network, images, labels


def embedded(network: nn.Module) -> dict[str, Tensor]:
    """The parameters except the biases of convolutions, all of which a batch norm follows."""
    trainable = ((name, value) for name, value in network.named_parameters() if value.requires_grad)
    return {name: value for name, value in trainable if not re.fullmatch(r"blocks\.\d\.0\.bias", name)}


def loop(network: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    network.eval()
    names, values = zip(*embedded(network).items(), strict=True)
    totals = dict.fromkeys(names, torch.tensor(0.0))
    for image, label in zip(images, labels, strict=True):
        loss = functional.cross_entropy(network(image[None]), label[None])
        for name, gradient in zip(names, torch.autograd.grad(loss, values), strict=True):
            totals[name] = totals[name] + gradient**2 / len(images)
    return totals


def assert_alike(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, values in first.items():
        torch.testing.assert_close(values, second[name], rtol=1e-4, atol=1e-5 * float(second[name].max()))


def test_equals_a_loop_over_the_samples(task: tuple[nn.Module, Tensor, Tensor]) -> None:
    network, images, labels = task
    fisher = diagonal_fisher(network, images, labels, chunk=4)
    assert_alike(fisher, loop(network, images, labels))
    assert all(values.sum() > 0 for values in fisher.values() if values.numel() > 16)


@pytest.mark.parametrize("chunk", [1, 3, SAMPLES, 100])
def test_neither_chunk_nor_order_matters(task: tuple[nn.Module, Tensor, Tensor], chunk: int) -> None:
    network, images, labels = task
    whole = diagonal_fisher(network, images, labels, chunk=5)
    order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(0))
    assert_alike(diagonal_fisher(network, images[order], labels[order], chunk=chunk), whole)


def test_leaves_the_network_as_it_was(task: tuple[nn.Module, Tensor, Tensor]) -> None:
    network, images, labels = task
    network.train()
    next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d)).eval()
    modes = [module.training for module in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        diagonal_fisher(network, images, labels, chunk=4)
    assert [module.training for module in network.modules()] == modes
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    network.train()
    with raises(DataError, subject="labels", problem=f"[0, {CLASSES})"):
        diagonal_fisher(network, images, labels + CLASSES, chunk=4)
    assert all(module.training for module in network.modules())


def test_only_trainable_tensors_embed_the_task(task: tuple[nn.Module, Tensor, Tensor]) -> None:
    network, images, labels = task
    whole = diagonal_fisher(network, images, labels, chunk=4)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith("head"))
    part = diagonal_fisher(network, images, labels, chunk=4)
    assert set(part) == {"head.weight", "head.bias"}
    assert_alike(part, {name: whole[name] for name in part})


def of_two_batches(network: nn.Module, images: Tensor, labels: Tensor, first: int) -> dict[str, Tensor]:
    """Mean of the squared gradients of two batches, the first of `first` images, in the mode of the network."""
    expected: dict[str, Tensor] = {}
    for part in (slice(0, first), slice(first, None)):
        loss = functional.cross_entropy(network(images[part]), labels[part])
        gradients = torch.autograd.grad(loss, list(embedded(network).values()))
        for name, gradient in zip(embedded(network), gradients, strict=True):
            expected[name] = expected.get(name, torch.tensor(0.0)) + gradient**2 / 2
    return expected


def test_batch_squared_is_the_square_of_the_batch_mean(task: tuple[nn.Module, Tensor, Tensor]) -> None:
    network, images, labels = task
    network.eval()
    expected = of_two_batches(network, images, labels, 6)
    quirk = diagonal_fisher(network, images, labels, chunk=6, batch_squared=True)
    assert_alike(quirk, expected)
    fisher = diagonal_fisher(network, images, labels, chunk=6)
    assert quirk["head.bias"].sum() < fisher["head.bias"].sum()


def test_a_batch_can_be_normalised_by_itself_and_the_network_is_left_as_it_was(
    task: tuple[nn.Module, Tensor, Tensor],
) -> None:
    network, images, labels = task
    network.eval()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [(module.training, getattr(module, "track_running_stats", None)) for module in network.modules()]
    # A last batch of one image is merged with the batch before it: 5 and 6 of 11.
    found = diagonal_fisher(network, images, labels, chunk=5, batch_squared=True, batch_statistics=True)
    assert [(module.training, getattr(module, "track_running_stats", None)) for module in network.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    network.train()
    expected = of_two_batches(network, images, labels, 5)
    assert_alike(found, expected)
    with raises(UsageError, subject="batch_statistics", remedy="batch_squared=True"):
        diagonal_fisher(network, images, labels, chunk=5, batch_statistics=True)


class Mixed(nn.Module):
    """Biases before a batch norm, before a batch norm and a sum, and before an in-place activation."""

    def __init__(self) -> None:
        super().__init__()
        self.absorbed, self.also_added, self.activated = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.norm, self.other_norm, self.last_norm = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.BatchNorm1d(4)
        self.flat, self.head = nn.Linear(3, 4), nn.Linear(4, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        values = self.norm(self.absorbed(images)).relu_()
        values = self.also_added(values)
        values = self.activated(values + self.other_norm(values)).relu_()
        return self.head(self.last_norm(self.flat(values.mean((2, 3)))))


def test_biases_that_go_into_a_batch_norm_and_nowhere_else_are_left_out() -> None:
    network, images = Mixed().eval(), torch.randn(5, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    assert absorbed_biases(network, images) == {"absorbed.bias", "flat.bias"}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    network.flat.bias.requires_grad_(False)
    fisher = diagonal_fisher(network, images, torch.arange(5) % CLASSES, chunk=4)
    names = {name for name, value in network.named_parameters() if value.requires_grad}
    assert set(fisher) == names - {"absorbed.bias"}


def test_the_published_similarity_is_free_of_rounding_noise(task: tuple[nn.Module, Tensor, Tensor]) -> None:
    network, images, labels = task
    rows = []
    for name, order in (("a", torch.arange(SAMPLES)), ("b", torch.arange(SAMPLES).flip(0))):
        fisher = diagonal_fisher(
            network, images[order], labels[order], chunk=SAMPLES, batch_squared=True, batch_statistics=True
        )
        rows.append(TaskEmbedding(name, fisher))
    # One batch in two orders: only rounding differs.
    assert float(similarity_matrix(FisherEmbeddings.stack(rows))[0, 1]) > 0.9999


@pytest.mark.parametrize("batch_squared", [False, True])
def test_of_large_tensors_some_blocks_are_kept(task: tuple[nn.Module, Tensor, Tensor], batch_squared: bool) -> None:
    network, images, labels = task
    whole = diagonal_fisher(network, images, labels, chunk=4, batch_squared=batch_squared)
    part = diagonal_fisher(network, images, labels, chunk=4, batch_squared=batch_squared, most_entries=30)
    kept = kept_blocks(whole, 30)
    assert {name for name, values in whole.items() if values.numel() > 30} == kept.keys() > set()
    for name, blocks in kept.items():
        matrix, height, width = whole[name].flatten(1), blocks.height, blocks.width
        whole[name] = torch.stack(
            [
                matrix[height * number : height * (number + 1), width * number : width * (number + 1)]
                for number in range(blocks.count)
            ]
        )
        assert 10 < part[name].numel() <= 30
        assert len(matrix) - blocks.count < blocks.count * height <= len(matrix)
    assert_alike(part, whole)


def test_sampled_labels_come_from_the_softmax(task: tuple[nn.Module, Tensor, Tensor]) -> None:
    network, images, _ = task

    def sampled(count: int, chunk: int, seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return diagonal_fisher(
            network, images[:1].expand(count, -1, -1, -1), "sampled", chunk=chunk, generator=generator
        )

    assert_alike(sampled(9, 2, seed=1), sampled(9, 9, seed=1))
    # The true Fisher of one image is the mean of the empirical ones over all labels, weighted by the softmax.
    network.eval()
    with torch.no_grad():
        probabilities = network(images[:1]).softmax(1)[0]
    given = [diagonal_fisher(network, images[:1], torch.tensor([k]), chunk=1)["head.bias"] for k in range(CLASSES)]
    true = probabilities @ torch.stack(given)
    standard_error = ((probabilities @ (torch.stack(given) - true).square()) / 4000).sqrt()
    assert (standard_error < 0.2 * true).all()
    drawn = sampled(4000, 500, seed=2)["head.bias"]
    assert ((drawn - true).abs() < 4 * standard_error).all()


def test_bad_input_is_named() -> None:
    network = build_network("conv4", classes=CLASSES, channels=3, input_size=SIDE, arguments={"width": 4})
    images, labels = torch.zeros(3, 3, SIDE, SIDE), torch.tensor([0, 1, 2])
    with raises(UsageError, subject="chunk", problem="0"):
        diagonal_fisher(network, images, labels, chunk=0)
    with raises(UsageError, subject="most_entries", problem="0"):
        diagonal_fisher(network, images, labels, chunk=2, most_entries=0)
    with raises(UsageError, subject="generator"):
        diagonal_fisher(network, images, "sampled", chunk=2)
    with raises(UsageError, subject="labels", problem="'drawn'"):
        diagonal_fisher(network, images, "drawn", chunk=2)  # pyright: ignore[reportArgumentType]
    with raises(DataError, subject="images", problem="[0, 3, 16, 16]"):
        diagonal_fisher(network, images[:0], labels[:0], chunk=2)
    with raises(DataError, subject="labels", problem="int64 [3]"):
        diagonal_fisher(network, images, labels[:2], chunk=2)
    with raises(DataError, subject="gradients", problem="not finite"):
        diagonal_fisher(network, images * float("nan"), labels, chunk=2)
    with raises(UsageError, subject="probe", remedy="requires_grad"):
        diagonal_fisher(nn.Sequential(nn.Flatten(), nn.Identity()), images, labels, chunk=2)
    stateless = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten(), nn.Linear(3 * SIDE**2, 4))
    with raises(UsageError, subject="batch norm '0'", remedy="track_running_stats=True"):
        diagonal_fisher(stateless, images, labels, chunk=2)


def test_embeddings_of_a_zoo_keep_and_return(tmp_path) -> None:
    one = TaskEmbedding("latin/é", {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(2)})
    other = TaskEmbedding("greek", {"a": torch.zeros(2), "b": torch.ones(2, 3)})
    zoo = FisherEmbeddings.stack([one, other])
    assert zoo.tensors["b"][:].tolist() == [[0, 1, 2, 3, 4, 5], [1] * 6]
    path = tmp_path / "fisher.safetensors"
    back = FisherEmbeddings.load(path, write_embeddings(path, zoo.names, iter([one, other])))
    assert back.names == ("latin/é", "greek")
    assert list(back.tensors) == ["a", "b"]
    assert all(torch.equal(back.tensors[name][:], zoo.tensors[name][:]) for name in "ab")
    with raises(DataError, subject="'short'", problem="different probes"):
        write_embeddings(path, ["one", "short"], [one, TaskEmbedding("short", {"a": torch.ones(2)})])
    assert FisherEmbeddings.load(path).names == back.names
    with raises(DataError, subject="'short'", problem="different probes"):
        FisherEmbeddings.stack([one, TaskEmbedding("short", {"a": torch.ones(2)})])
    with raises(UsageError, subject="task embeddings", problem="same name"):
        FisherEmbeddings.stack([one, one])
    with raises(UsageError, subject="task embeddings", problem="none"):
        FisherEmbeddings.stack([])
    with raises(DataError, subject="'w'", problem="negative"):
        FisherEmbeddings(("a",), {"w": torch.tensor([[-1.0]])})


def test_a_file_of_something_else_is_refused(tmp_path) -> None:
    path = tmp_path / "other.safetensors"
    write_tensors(path, {"a": torch.ones(2, 3)})
    with raises(ArtefactError, subject=str(path), problem="format 1"):
        FisherEmbeddings.load(path)
    for names in ('["one"]', "not json", "3"):
        write_tensors(path, {"a": torch.ones(2, 3)}, {"format_version": "1", "names": names})
        with raises(ArtefactError, subject=str(path), problem="damaged"):
            FisherEmbeddings.load(path)
    write_tensors(path, {"a": torch.ones(1, 3)}, {"format_version": "2", "names": json.dumps(["one"])})
    with raises(ArtefactError, subject=str(path), problem="format 1"):
        FisherEmbeddings.load(path)
