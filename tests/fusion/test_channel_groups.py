"""A permutation of channels that the trace allows changes no feature, and one that it forbids does."""

from collections.abc import Callable

import pytest
import torch
from error_checks import raises
from fusion_helpers import classifier, individual, random_orders, spec
from torch import Tensor, nn
from torch.nn import functional

from metazoo.errors import UsageError
from metazoo.fusion.channel_groups import ChannelGroup, channel_groups, permuted
from metazoo.models import ImageClassifier, Network, architectures

# Deeper networks of the same blocks take seconds.
DEEP = {"resnet50", "cifar-resnet44", "cifar-resnet56", "cifar-resnet110", "vgg16-bn", "vgg19-bn"}
FAMILIES = [name for name in architectures() if name not in DEEP]

WIDTHS = {"wide-resnet": 2, "shufflenet-v2": 8}


def check_function(made: ImageClassifier, groups: list[ChannelGroup]) -> None:
    """Compare features before and after random permutations in float64, up to the order of the features themselves."""
    network, images = made.network.double(), torch.randn(2, 3, *[made.spec.input_size] * 2).double()
    state = network.state_dict()
    with torch.no_grad():
        before = network.features(images).clone()
        network.load_state_dict(permuted(state, groups, random_orders(groups)))
        after = network.features(images)
    assert not torch.allclose(before, after)
    scale = before.abs().max()
    torch.testing.assert_close(before.sort(1).values / scale, after.sort(1).values / scale, rtol=0, atol=1e-12)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_all_channels_of_an_architecture_are_found(architecture: str) -> None:
    made = classifier(architecture, width=WIDTHS.get(architecture, 4))
    groups = channel_groups(made)
    check_function(made, groups)
    found = {name for group in groups for name, _ in group.axes}
    features = {name for name in made.network.state_dict() if not name.startswith("head.")}
    assert features - found == {name for name in features if name.endswith("num_batches_tracked")}


def test_axes_of_a_chain_of_layers() -> None:
    groups = channel_groups(classifier("conv4", width=5))
    assert [group.size for group in groups] == [5] * 4
    own = [("blocks.1.0.weight", 0), ("blocks.1.0.bias", 0)]
    norm = [(f"blocks.1.1.{name}", 0) for name in ("weight", "bias", "running_mean", "running_var")]
    assert set(groups[1].axes) == {*own, *norm, ("blocks.2.0.weight", 1)}
    assert all(torch.equal(indices, torch.arange(5).unsqueeze(1)) for indices in groups[1].axes.values())


def test_a_flattened_channel_has_an_index_for_each_position() -> None:
    groups = channel_groups(classifier("lenet5", width=3))
    indices = groups[1].axes["hidden.0.weight", 1]
    assert torch.equal(indices, torch.arange(8 * 25).view(8, 25))


def test_layers_that_add_into_one_stream_share_a_group() -> None:
    stream = channel_groups(classifier("resnet18", width=4))[0]
    wanted = {"stem.0.weight", "stages.0.0.second.weight", "stages.0.1.second.weight"}
    assert {
        name for name, dimension in stream.axes if dimension == 0 and name.endswith(("0.weight", "d.weight"))
    } == wanted


def test_a_padded_shortcut_divides_the_wider_stream() -> None:
    """With shortcut A, four channels of the second stage are those of the first, and four are its own."""
    groups = channel_groups(classifier("cifar-resnet20", width=4))
    [first, second] = [group for group in groups if ("layer2.0.conv2.weight", 0) in group.axes]
    assert first.axes["layer2.0.conv2.weight", 0].flatten().tolist() == [2, 3, 4, 5]
    assert ("conv1.weight", 0) in first.axes
    assert second.axes["layer2.0.conv2.weight", 0].flatten().tolist() == [0, 1, 6, 7]


class Custom(Network):
    """Two convolutions around a function of the test."""

    def __init__(self, between: Callable[[Tensor], Tensor], outputs: int = 6, **modules: nn.Module) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(outputs, 5, 1)
        self.extra = nn.ModuleDict(modules)
        self.feature_size, self.head = 5, nn.Linear(5, 3)
        self._between = between

    def features(self, images: Tensor) -> Tensor:
        return functional.relu(self.second(self._between(self.first(images)))).mean((2, 3))


def custom(between: Callable[[Tensor], Tensor], outputs: int = 6, **modules: nn.Module) -> ImageClassifier:
    return ImageClassifier(spec("custom", size=8), individual(Custom(between, outputs, **modules))).eval()


def sizes(made: ImageClassifier) -> list[int]:
    return [group.size for group in channel_groups(made)]


GATE = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 4, 1), nn.SiLU(), nn.Conv2d(4, 6, 1), nn.Sigmoid())
NORM, DEPTHWISE = nn.LayerNorm(6), nn.Conv2d(6, 12, 3, groups=6)


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (custom(lambda x: x * GATE(x), gate=GATE), [6, 4, 5]),
        (custom(lambda x: NORM(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), norm=NORM), [6, 5]),
        (custom(DEPTHWISE, 12, depthwise=DEPTHWISE), [6, 5]),
        (custom(lambda x: x.view(1 * len(x), 6, -1).unflatten(2, (6, 6)) / 2 + 1), [6, 5]),
        (custom(lambda x: functional.pad(x, (1, 2, 0, 1, 2, 0)).mul_(0.5), 8), [6, 2, 5]),
        (custom(lambda x: torch.cat([x, x[:, 2:].relu()], 1), 10), [2, 4, 5]),
        # Halves with different activations have different roles.
        (custom(lambda x: torch.cat([x[:, :3].relu(), x[:, 3:].tanh()], 1)), [3, 3, 5]),
        # A gated linear unit ties the channels of both halves.
        (custom(lambda x: x[:, :3] * x[:, 3:].sigmoid(), 3), [3, 5]),
        # Of three products, one has its factors exchanged.
        (custom(lambda x: x[:, [0, 4, 2]] * x[:, [3, 1, 5]].relu(), 3), [2, 5]),
        # Pairs whose halves are summed alike, but that arrive in another order.
        (custom(lambda x: (x + x[:, [3, 4, 5, 0, 1, 2]].relu())[:, [0, 4, 2, 3, 1, 5]]), [2, 5]),
        # Two cycles of three in opposite directions.
        (custom(lambda x: x + x[:, [2, 5, 4, 1, 0, 3]].relu()), [5]),
        # A mean over channels gives one that cannot be exchanged, and channels that can only stay.
        (custom(lambda x: x - x.mean(1, keepdim=True)), [5]),
    ],
)  # fmt: skip
def test_other_connections(made: ImageClassifier, wanted: list[int]) -> None:
    assert sizes(made) == wanted
    check_function(made, channel_groups(made))


SCALE = nn.Parameter(torch.rand(6, 1, 1))
GROUPED, GROUP_NORM = nn.Conv2d(6, 6, 3, groups=2), nn.GroupNorm(2, 6)


@pytest.mark.parametrize(
    ("between", "problem"),
    [
        (lambda x: x * SCALE, "'mul' with several tensors"),
        (lambda x: x.softmax(1), "'softmax'"),
        (GROUPED, "in groups of several channels"),
        (GROUP_NORM, "'group_norm'"),
        (lambda x: functional.conv2d(x, GROUPED.weight.repeat(1, 2, 1, 1) * 2), "computes the weight"),
        (lambda x: functional.layer_norm(x, x.shape[1:]), "layer norm over positions"),
        (lambda x: functional.pad(x, (0, 0, 0, 0, 1, 1), value=1.0), "pads"),
    ],
)
def test_an_operation_with_unknown_effect_is_refused(between: Callable[[Tensor], Tensor], problem: str) -> None:
    with raises(UsageError, subject="custom", problem=problem, remedy="average"):
        channel_groups(custom(between))


def test_a_network_that_fails_or_hides_a_weight_is_refused() -> None:
    with raises(UsageError, subject="custom", problem="cannot be traced (integer division", remedy="average"):
        channel_groups(custom(lambda x: x * (1 // 0)))
    with raises(UsageError, subject="custom", problem="'extra.hidden.weight'", remedy="average"):
        channel_groups(custom(lambda x: x, hidden=nn.Linear(6, 6)))


def test_the_network_is_not_changed() -> None:
    made = classifier("conv4", width=4).train()
    before = {name: tensor.clone() for name, tensor in made.network.state_dict().items()}
    channel_groups(made)
    assert all(part.training for part in made.network.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.network.state_dict().items())
