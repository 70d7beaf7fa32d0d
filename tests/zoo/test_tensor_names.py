"""Checkpoints as the scripts of other people write them: their modules are written here in their naming."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from error_checks import raises
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from metazoo.errors import UsageError, ZooError
from metazoo.models import ClassifierSpec, build_network, network_without_weights
from metazoo.zoo import Zoo, add_folder, add_model, preview_model
from metazoo.zoo.importing.best_fit import best_fits
from metazoo.zoo.importing.tensor_names import match_by_name, match_by_order

CLASSES = ("cat", "dog", "emu")
SAID: dict[str, Any] = {"input_size": 32, "mean": 0.0, "std": 1.0, "domain": "pets"}


class Block(nn.Module):
    """Basic block of kuangliu's script, or of torchvision's with another word for the shortcut."""

    def __init__(self, inputs: int, width: int, stride: int, word: str = "shortcut") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.word = word
        changed = stride != 1 or inputs != width
        short = [nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width)] if changed else []
        setattr(self, word, nn.Sequential(*short))

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(out)) + getattr(self, self.word)(x))


class StrangersResNet(nn.Module):
    """ResNet-18 of kuangliu's script, or the ResNet-20 of chenyaofo's."""

    def __init__(self, blocks: tuple[int, ...], width: int, head: str, word: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        inputs = width
        for index, count in enumerate(blocks):
            stage = []
            for block in range(count):
                stage.append(Block(inputs, width * 2**index, 2 if index and not block else 1, word))
                inputs = width * 2**index
            setattr(self, f"layer{index + 1}", nn.Sequential(*stage))
        setattr(self, head, nn.Linear(inputs, 3))
        self.head_name, self.stages = head, len(blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        for index in range(self.stages):
            x = getattr(self, f"layer{index + 1}")(x)
        return getattr(self, self.head_name)(x.mean((2, 3)))


class WeiaicunzaisBlock(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual_function = nn.Sequential(
            nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip
        short = [nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width)] if stride > 1 else []
        self.shortcut = nn.Sequential(*short)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.residual_function(x) + self.shortcut(x))


class WeiaicunzaisResNet(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        for index in range(4):
            inputs, outputs = width * 2 ** max(0, index - 1), width * 2**index
            first = WeiaicunzaisBlock(inputs, outputs, 2 if index else 1)
            setattr(self, f"conv{index + 2}_x", nn.Sequential(first, WeiaicunzaisBlock(outputs, outputs, 1)))
        self.fc = nn.Linear(8 * width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for name in ("conv2_x", "conv3_x", "conv4_x", "conv5_x"):
            x = getattr(self, name)(x)
        return self.fc(x.mean((2, 3)))


class StrangersVgg(nn.Module):
    """VGG-11 of kuangliu (`hidden` 0), or of chenyaofo and weiaicunzai with hidden layers and dropout."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for word in (1, "M", 2, "M", 4, 4, "M", 8, 8, "M", 8, 8, "M"):
            if isinstance(word, str):
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv2d(inputs, word * width, 3, padding=1), nn.BatchNorm2d(word * width), nn.ReLU()]
                inputs = word * width
        self.features = nn.Sequential(*layers)
        self.classifier: nn.Module = nn.Linear(inputs, 3)
        if hidden:
            self.classifier = nn.Sequential(
                nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(),
                nn.Linear(hidden, 3),
            )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


class XternalzsBlock(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.convShortcut = nn.Conv2d(inputs, width, 1, stride, bias=False) if inputs != width else None

    def forward(self, x: Tensor) -> Tensor:
        active = functional.relu(self.bn1(x))
        out = self.conv2(functional.relu(self.bn2(self.conv1(active))))
        return out + (x if self.convShortcut is None else self.convShortcut(active))


class XternalzsStage(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(XternalzsBlock(inputs, width, stride), XternalzsBlock(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class XternalzsWideResNet(nn.Module):
    def __init__(self, factor: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.block1 = XternalzsStage(16, 16 * factor, 1)
        self.block2 = XternalzsStage(16 * factor, 32 * factor, 2)
        self.block3 = XternalzsStage(32 * factor, 64 * factor, 2)
        self.bn1, self.fc = nn.BatchNorm2d(64 * factor), nn.Linear(64 * factor, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(functional.relu(self.bn1(x)).mean((2, 3)))


class MetaBaselinesBlock(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        for number, size in ((1, inputs), (2, width), (3, width)):
            setattr(self, f"conv{number}", nn.Conv2d(size, width, 3, padding=1, bias=False))
            setattr(self, f"bn{number}", nn.BatchNorm2d(width))
        self.downsample = nn.Sequential(nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        parts, out = self.get_submodule, x
        for number in (1, 2, 3):
            out = parts(f"bn{number}")(parts(f"conv{number}")(out))
            out = functional.leaky_relu(out + self.downsample(x) if number == 3 else out, 0.1)
        return functional.max_pool2d(out, 2)


class MetaBaselinesClassifier(nn.Module):
    """Names `encoder.layer1.conv1.weight`, without an index of the block, and `classifier.linear.weight`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential()
        widths = (3, width, 5 * width // 2, 5 * width, 10 * width)
        for number in range(4):
            self.encoder.add_module(f"layer{number + 1}", MetaBaselinesBlock(widths[number], widths[number + 1]))
        self.fc = nn.Linear(widths[-1], 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.encoder(x).mean((2, 3)))


class KuangliusLeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2).flatten(1)
        return self.fc3(functional.relu(self.fc2(functional.relu(self.fc1(x)))))


class TutorialLeNet(nn.Module):
    """Convolutions in a `Sequential`, whose numbers say nothing of their role."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.Sequential(
            nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 3),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.stack(x)


def trained(model: nn.Module) -> nn.Module:
    """Model whose tensors all differ, in evaluation mode."""
    torch.manual_seed(1)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5) if name.endswith(("var", "weight")) else tensor.normal_(std=0.2)
    return model.eval()


def saved(path: Path, state: Mapping[str, Tensor], prefix: str = "") -> str:
    torch.save({prefix + name: tensor for name, tensor in state.items()}, path)
    return str(path)


SCRIPTS: dict[str, tuple[Callable[[], nn.Module], str, dict[str, Any]]] = {
    "kuangliu-resnet18": (
        lambda: StrangersResNet((2, 2, 2, 2), 8, "linear", "shortcut"), "cifar-resnet18", {"width": 8},
    ),
    "chenyaofo-resnet20": (
        lambda: StrangersResNet((3, 3, 3), 16, "fc", "downsample"), "cifar-resnet20", {"shortcut": "B"},
    ),
    "weiaicunzai-resnet18": (lambda: WeiaicunzaisResNet(8), "cifar-resnet18", {"width": 8}),
    "kuangliu-vgg11": (lambda: StrangersVgg(4, 0), "vgg11-bn", {"width": 4}),
    "chenyaofo-vgg11": (lambda: StrangersVgg(4, 32), "vgg11-bn", {"width": 4, "hidden": 32}),
    "xternalz-wide-resnet": (lambda: XternalzsWideResNet(2), "wide-resnet", {"width": 2}),
    "few-shot-resnet12": (lambda: MetaBaselinesClassifier(4), "resnet12", {"width": 4}),
    "kuangliu-lenet": (KuangliusLeNet, "lenet5", {}),
}  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "module.", "model._orig_mod.", "student.net."])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_file_is_recognised_by_the_names_of_its_script(tmp_path: Path, script: str, prefix: str) -> None:
    make, architecture, arguments = SCRIPTS[script]
    theirs = trained(make())
    state = {prefix + name: tensor for name, tensor in theirs.state_dict().items()}
    if prefix == "module.":
        (fit,) = best_fits(state)
        assert (fit.architecture, fit.arguments, fit.classes, fit.is_exact) == (architecture, arguments, 3, True)
    ours = build_network(architecture, classes=3, channels=3, input_size=32, arguments=arguments).eval()
    matched = match_by_name(state, ours)
    assert matched.problem(ours.state_dict()) is None
    assert sorted(matched.sources.values()) == sorted(state)
    ours.load_state_dict(matched.state)
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("script", ["kuangliu-vgg11", "kuangliu-lenet"])
def test_the_only_architecture_that_fits_is_taken(
    tmp_path: Path, script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, architecture, arguments = SCRIPTS[script]
    theirs = trained(make())
    source = saved(tmp_path / "w.pt", theirs.state_dict(), "module.")
    contract = add_model(tmp_path / "zoo", source, classes=CLASSES, **SAID)
    assert (contract.spec.architecture, contract.spec.arguments) == (architecture, arguments)
    assert f"w.pt is taken as {architecture}" in capsys.readouterr().err
    images = torch.rand(2, 3, 32, 32)
    logits = Zoo.open(tmp_path / "zoo").teacher("w").logits(images)
    torch.testing.assert_close(logits, theirs(images), rtol=1e-4, atol=1e-4)


def test_a_preview_names_all_tensors_and_writes_nothing(tmp_path: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in StrangersVgg(2, 0).state_dict().items()}
    state = {name: tensor for name, tensor in state.items() if "num_batches" not in name}
    state |= {"module.total_ops": torch.zeros(1), "module.features.0.total_params": torch.zeros(1)}
    source = saved(tmp_path / "w.pt", state)
    preview = preview_model(tmp_path / "zoo", source, classes=CLASSES, **SAID)
    assert preview.tensors.sources["head.bias"] == "module.classifier.bias"
    assert preview.tensors.sources["layers.1.running_var"] == "module.features.1.running_var"
    assert preview.tensors.dropped == ("module.total_ops", "module.features.0.total_params")
    assert len(preview.tensors.added) == 8
    assert all(name.endswith("num_batches_tracked") for name in preview.tensors.added)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.pt"]


def test_an_error_names_the_fit_and_the_complete_command(tmp_path: Path) -> None:
    source = saved(tmp_path / "my weights.pt", StrangersVgg(4, 32).state_dict())
    command = (
        f"metazoo zoo add {tmp_path / 'zoo'} '{source}' --arch vgg11-bn --classes cat,dog,emu --input-size 32 "
        "--mean 0.0 --std 1.0 --domain pets --arguments width=4,hidden=32"
    )
    with raises(
        ZooError, subject="my weights.pt", problem="does not fit resnet18", remedy="vgg11-bn (width 4, hidden 32)"
    ) as caught:
        add_model(tmp_path / "zoo", source, architecture="resnet18", classes=CLASSES, **SAID)
    assert command in caught.value.remedy
    with raises(ZooError, problem="with 2 classes", remedy="--classes FILE_OF_3_NAMES"):
        arguments = {"width": 4, "hidden": 32}
        add_model(tmp_path / "zoo", source, architecture="vgg11-bn", arguments=arguments, classes=("a", "b"), **SAID)
    with raises(UsageError, problem="looks like vgg11-bn (width 4, hidden 32) with 3 classes, but 2 are given"):
        add_model(tmp_path / "zoo", source, classes=("a", "b"), **SAID)
    with raises(UsageError, problem="missing --classes, --domain; it looks like vgg11-bn", remedy="--classes CLASSES"):
        add_model(tmp_path / "zoo", source, **{**SAID, "domain": None})
    assert not (tmp_path / "zoo").exists()


def test_a_file_of_a_folder_is_described_by_its_fit(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    saved(tmp_path / "in" / "w.pt", KuangliusLeNet().state_dict())
    (tmp_path / "in" / "w.yaml").write_text("{architecture: vgg11-bn, classes: [cat, dog, emu]}")
    (found,) = add_folder(tmp_path / "zoo", tmp_path / "in", **SAID)
    assert "describe it by architecture: lenet5" in found.text
    (tmp_path / "in" / "w.yaml").write_text("{classes: [cat, dog, emu]}")
    assert [each.status for each in add_folder(tmp_path / "zoo", tmp_path / "in", **SAID)] == ["added"]


@pytest.mark.parametrize(
    ("name", "architecture", "source"),
    [("mobilenet_v2", "mobilenet-v2", "mobilenet_v2"), ("shufflenet_v2_x0_5", "shufflenet-v2", "shufflenet_v2_x0_5")],
)
def test_networks_that_differ_in_strides_only_are_never_guessed(
    tmp_path: Path, name: str, architecture: str, source: str
) -> None:
    path = saved(tmp_path / "w.pt", getattr(torchvision.models, name)(num_classes=3).state_dict())
    wanted = f"torchvision:{source} --weights"
    with raises(UsageError, subject="w.pt", problem="strides differ", remedy=wanted) as caught:
        add_model(tmp_path / "zoo", path, classes=CLASSES, **SAID)
    assert f"--arch {architecture}" in caught.value.remedy
    with raises(ZooError, remedy=wanted):
        add_model(tmp_path / "zoo", path, architecture="lenet5", classes=CLASSES, **SAID)
    assert not (tmp_path / "zoo").exists()
    chosen = {"width": 48} if architecture == "shufflenet-v2" else {}
    said = {**SAID, "architecture": architecture, "arguments": chosen}
    assert preview_model(tmp_path / "zoo", path, classes=CLASSES, **said).spec.architecture == architecture


def test_a_command_repeats_only_what_was_given_and_exactly(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pt", KuangliusLeNet().state_dict())
    (tmp_path / "w.yaml").write_text("{input_size: 32, domain: pets, classes: [cat, dog, emu]}")
    with raises(ZooError) as caught:
        add_model(tmp_path / "zoo", path, architecture="resnet18", mean=0.12345678, std=1 / 3)
    remedy = caught.value.remedy
    assert f"--arch lenet5 --mean 0.12345678 --std {1 / 3}" in remedy
    assert not any(option in remedy for option in ("--input-size", "--domain", "--classes"))
    with raises(UsageError, problem="missing --mean", remedy="--by-order"):
        add_model(tmp_path / "zoo", path, std=0.5, by_order=True)
    with raises(ZooError, remedy="--classes CLASSES") as caught:
        add_model(tmp_path / "zoo", path, architecture="resnet18", classes=("a, b", "c", "d"), mean=0.5, std=0.5)
    assert "a, b" not in caught.value.remedy


def test_order_in_a_folder_is_advised_by_its_option(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    saved(tmp_path / "in" / "w.pt", TutorialLeNet().state_dict())
    (tmp_path / "in" / "w.yaml").write_text("{architecture: lenet5, classes: [cat, dog, emu]}")
    (found,) = add_folder(tmp_path / "zoo", tmp_path / "in", **SAID)
    assert "add it alone with --by-order" in found.text


def test_order_is_used_only_on_request(tmp_path: Path) -> None:
    theirs = trained(TutorialLeNet())
    source = saved(tmp_path / "w.pt", theirs.state_dict())
    said = SAID | {"architecture": "lenet5", "classes": CLASSES}
    with raises(ZooError, problem="'stack.0.weight'", remedy="--by-order"):
        add_model(tmp_path / "zoo", source, **said)
    add_model(tmp_path / "zoo", source, by_order=True, **said)
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(Zoo.open(tmp_path / "zoo").teacher("w").logits(images), theirs(images))
    save_file(theirs.state_dict(), tmp_path / "sorted.safetensors")
    with raises(UsageError, subject="sorted.safetensors", problem="in the order of their names"):
        add_model(tmp_path / "zoo", str(tmp_path / "sorted.safetensors"), by_order=True, **said)
    with raises(ZooError, problem="'stack.", remedy="most like lenet5 with 3 classes") as caught:
        add_model(tmp_path / "zoo", str(tmp_path / "sorted.safetensors"), **said)
    assert "--by-order" not in caught.value.remedy


def _moved(state: Mapping[str, Tensor], name: str, before: str) -> dict[str, Tensor]:
    """State whose layer `name` is defined just before the layer `before`."""
    moved = {key: tensor for key, tensor in state.items() if key.startswith(f"{name}.")}
    result: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key.startswith(f"{before}."):
            result |= moved
        result |= {} if key in moved else {key: tensor}
    return result


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State whose names, though numbered, have no usual word."""
    return {name.replace("layers.", "part").replace("head", "z"): tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda state: _moved(_moved(state, "part25", "part22"), "part26", "part22"), "after a tensor of a higher"),
        (lambda state: state | {"more.weight": torch.ones(1)}, "cannot be the"),
        (lambda state: _moved(state, "part1", "part0"), "'part1.weight' [2] would be 'layers.0.weight' [2, 3, 3, 3]"),
        (
            lambda state: {name.replace("part25.weight", "p.weight"): tensor for name, tensor in state.items()},
            "of another layer than its neighbours",
        ),
    ],
)
def test_a_wrong_order_is_refused(change: Callable[[dict[str, Tensor]], dict[str, Tensor]], problem: str) -> None:
    network = build_network("vgg11-bn", classes=3, channels=3, input_size=32, arguments={"width": 2})
    state = {name: tensor for name, tensor in network.state_dict().items() if "num_batches" not in name}
    assert match_by_order(_renamed(state), network, "x").fits(network.state_dict())
    with raises(ZooError, subject="x", problem=problem):
        match_by_order(change(_renamed(state)), network, "x")


def test_equal_shapes_never_change_places() -> None:
    """conv2 and its neighbour conv1 have one shape; a script may define them in any order."""
    network = build_network("cifar-resnet20", classes=3, channels=3, input_size=32, arguments={"width": 2})
    state = network.state_dict()
    swapped = _moved(state, "layer1.1.conv2", "layer1.1.conv1")
    assert [*swapped] != [*state]
    assert all(match_by_name(swapped, network).state[name] is tensor for name, tensor in state.items())
    renamed = {name.replace("layer1.1.conv", "block_b.c"): tensor for name, tensor in swapped.items()}
    assert not match_by_name(renamed, network).fits(state)
    with raises(ZooError, problem="order"):
        match_by_order(renamed, network, "x")
    lying = {name.replace("conv1", "CONV").replace("conv2", "conv1").replace("CONV", "conv2"): tensor
             for name, tensor in state.items()}  # fmt: skip
    with raises(ZooError, problem="order"):
        match_by_order(lying, network, "x")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("fc.weight", "linear.weight"),
        ("module.conv1.weight", "model.conv1.weight"),
        ("fc1.weight", "classifier.1.weight"),
    ],
)
def test_two_tensors_of_one_meaning_are_refused(first: str, second: str) -> None:
    network = build_network("cifar-resnet20", classes=3, channels=3, input_size=32, arguments={"width": 2})
    state = dict(network.state_dict())
    own = "conv1.weight" if "conv1" in first else "head.weight"
    tensor = state.pop(own)
    found = match_by_name(state | {first: tensor, second: tensor.clone()}, network)
    assert set(found.unknown) & {first, second}
    assert found.problem(network.state_dict()) is not None


def test_a_resnet_without_relu_in_its_stem_takes_no_file_of_one_with_it() -> None:
    state = StrangersResNet((2, 2, 2, 2), 4, "linear", "shortcut").state_dict()
    plain = build_network("resnet18", classes=3, channels=3, input_size=32, arguments={"width": 4})
    assert not match_by_name(state, plain).fits(plain.state_dict())
    assert match_by_name(plain.state_dict(), plain).fits(plain.state_dict())
    assert {fit.architecture for fit in best_fits(plain.state_dict())} == {"resnet18", "cifar-resnet18"}


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("wide-resnet", {"depth": 22, "width": 1, "bias": True}),
        ("densenet-bc", {"depth": 22, "width": 8}),
        ("mobilenet-v2", {"width": 8}),
        ("shufflenet-v2", {"width": 48}),
        ("conv4", {"width": (4, 6, 8, 10)}),
        ("cifar-resnet32", {"width": 4, "shortcut": "B"}),
        ("resnet12", {"width": 8}),
    ],
)
def test_width_and_depth_are_read_from_the_file(architecture: str, arguments: dict[str, Any]) -> None:
    network = build_network(architecture, classes=7, channels=1, input_size=32, arguments=arguments)
    found = [fit for fit in best_fits(network.state_dict()) if fit.architecture == architecture]
    assert [(fit.arguments, fit.classes, fit.channels, fit.is_exact) for fit in found] == [(arguments, 7, 1, True)]


def test_strange_tensors_have_no_fit() -> None:
    for state in (
        {},
        {"x": torch.ones(())},
        {"a": torch.ones(3, 3), "b": torch.ones(0, 3, 1, 1)},
        {"head.weight": torch.ones(2, 3), "conv1.weight": torch.ones(100_000, 3, 1, 1)},
        {f"layer{'9' * 5000}.0.conv1.weight": torch.ones(1, 1, 1, 1), "fc9999999999999.weight": torch.ones(1, 1)},
    ):
        assert best_fits(state) == []


def test_an_almost_fitting_file_names_what_it_is_like(tmp_path: Path) -> None:
    state = StrangersVgg(4, 0).state_dict()
    state["features.0.scale"] = torch.ones(1)
    with raises(ZooError, problem="'features.5.weight'", remedy="most like vgg11-bn (width 4) with 3 classes"):
        source = saved(tmp_path / "w.pt", state)
        add_model(tmp_path / "zoo", source, architecture="vgg13-bn", classes=CLASSES, **SAID)


def test_values_that_are_not_finite_are_named_as_in_the_file(tmp_path: Path) -> None:
    state = StrangersVgg(4, 0).state_dict()
    state["classifier.bias"][1] = float("nan")
    with raises(ZooError, problem="not finite in tensor classifier.bias", remedy="another file"):
        add_model(tmp_path / "zoo", saved(tmp_path / "w.pt", state), architecture="vgg11-bn", arguments={"width": 4},
                  classes=CLASSES, **SAID)  # fmt: skip


def test_a_spec_without_weights_suffices(tmp_path: Path) -> None:
    spec = ClassifierSpec(architecture="lenet5", classes=3, input_size=32, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert match_by_name(KuangliusLeNet().state_dict(), network_without_weights(spec)).unknown == ()
