"""The probe: the one network in whose weights every task of the zoo is embedded.

The published probe is an ImageNet ResNet-34 with its own 1000-way head, whose class k every task's class k is scored
against, so the embedding depends on the arbitrary order of the classes and on images that the user may not have. Here
the run trains a small network on the recovered images of the whole zoo (data-free): one shared body, and for every
teacher a head of its own for its own classes. The embedding is the Fisher information of the body alone, so it does not
depend on the order or the number of classes.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Literal, final

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from metazoo.bank import ResidentBank
from metazoo.data.augment import shift_and_flip
from metazoo.errors import DataError
from metazoo.execution.randomness import generator
from metazoo.models import (
    LARGEST_WIDTH,
    ClassifierSpec,
    ImageClassifier,
    Network,
    architectures,
    build_classifier,
    check_width,
)
from metazoo.plugins import unknown_name
from metazoo.taskspace.embeddings import TaskEmbedding
from metazoo.taskspace.fisher import diagonal_fisher

_FISHER_PIXELS = 1 << 18
FISHER_ENTRIES = 36864
PUBLISHED_FISHER_BATCH = 600

IMAGENET_PROBE = "imagenet-resnet34"


def _check_architecture(name: str) -> str:
    known = (*architectures(), IMAGENET_PROBE)
    if name not in known:
        raise ValueError(unknown_name("architecture", name, known))
    return name


class ProbeConfig(BaseModel):
    """How the probe is trained and how many images embed a task."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    architecture: Annotated[str, AfterValidator(_check_architecture)] = Field(
        default="conv4", description="of the probe's body; imagenet-resnet34: not trained here, see `imagenet_probe`"
    )
    weights: str | None = Field(default=None, description="file of imagenet-resnet34's weights")
    width: int = Field(default=32, ge=1, le=LARGEST_WIDTH, description="of the architecture")
    input_size: int = Field(default=32, ge=16, le=256, description="side in pixels that recovered images are fitted to")
    steps: int = Field(default=300, ge=1, description="steps of Adam")
    batch_size: int = Field(default=128, ge=2)
    learning_rate: float = Field(default=2e-3, gt=0)
    shift: int = Field(default=4, ge=0, description="largest shift of the augmentation in pixels")
    fisher_images: int = Field(
        default=150, ge=1, description="most images of a teacher that its embedding is computed from"
    )
    fisher: Literal["per-sample", "published"] = Field(
        default="per-sample", description="published: the squared gradient of the mean loss of batches of 600"
    )
    batch_statistics: bool = Field(
        default=False, description="of fisher published: batch norm normalises every such batch by itself"
    )
    fisher_entries: int | None = Field(
        default=FISHER_ENTRIES, ge=1, description="that embed, of each tensor of the probe, at most; null: all"
    )

    @property
    def trained(self) -> bool:
        """Whether the run trains the probe itself."""
        return self.architecture != IMAGENET_PROBE

    @model_validator(mode="after")
    def _check(self) -> "ProbeConfig":
        if self.trained is not (self.weights is None):
            raise ValueError("weights are given for imagenet-resnet34, and only for it")
        if self.trained:
            check_width(self.architecture, self.width)
        if self.batch_statistics and self.fisher != "published":
            raise ValueError("batch_statistics are for fisher published alone")
        return self


DEFAULT_CONFIG = ProbeConfig()


@final
class Probe:
    """A trained probe: a classifier over the classes of all teachers, one after the other."""

    def __init__(self, classifier: ImageClassifier, class_counts: Mapping[str, int]) -> None:
        self.classifier = classifier
        self._slices: dict[str, slice] = {}
        end = 0
        for name, count in class_counts.items():
            self._slices[name] = slice(end, end + count)
            end += count

    def embed(self, name: str, images: Tensor, labels: Tensor, config: ProbeConfig = DEFAULT_CONFIG) -> TaskEmbedding:
        """The Fisher embedding of teacher `name` on its recovered images; the probe is left as it is.

        Args:
            name: of a teacher that the probe was trained with.
            images: uint8 [n, channels, side, side].
            labels: int64 [n], local classes.
            config: which Fisher information is meant, and how much of it.

        Raises:
            DataError: as `diagonal_fisher`.
        """
        pixels = self.classifier.preprocess(images.float() / 255)
        with _only_body_asks(self.classifier.network):
            view = _TaskView(self.classifier.network, self._slices[name])
            return TaskEmbedding(name, fisher_of(view, pixels, labels, config))


def fisher_of(network: nn.Module, pixels: Tensor, labels: Tensor, config: ProbeConfig) -> dict[str, Tensor]:
    """`diagonal_fisher` as runs compute it, by sample or as published.

    By default the run's own probe is embedded whole. Of a ResNet-34 1.3 of 21.8 million entries are kept; with random
    weights and 12 tasks of CIFAR-FS, six times 9 of them in 3 groups, the similarities correlated by 0.9998 with those
    of all entries. The adjusted Rand index of the groups was 0.90 in the mean for `dispersed` (one near tie of six went
    the other way) and 1 for `spectral` and `homogeneous`.
    """
    is_published = config.fisher == "published"
    return diagonal_fisher(
        network,
        pixels,
        labels,
        chunk=PUBLISHED_FISHER_BATCH if is_published else max(1, _FISHER_PIXELS // pixels[0, 0].numel()),
        batch_squared=is_published,
        batch_statistics=config.batch_statistics,
        most_entries=config.fisher_entries,
    )


@contextlib.contextmanager
def _only_body_asks(network: Network) -> Iterator[None]:
    """Gradients are asked of all parameters but those of the head, for a while."""
    before = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    try:
        network.requires_grad_(True)
        network.head.requires_grad_(False)
        yield
    finally:
        for parameter, asked in before:
            parameter.requires_grad_(asked)


class _TaskView(nn.Module):
    """The probe as one teacher's classifier: the shared body and, fixed, the teacher's part of the head."""

    def __init__(self, network: Network, classes: slice) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("weight", network.head.weight.detach()[classes])
        self.register_buffer("bias", network.head.bias.detach()[classes])

    def forward(self, images: Tensor) -> Tensor:
        return functional.linear(self.network.features(images), self.weight, self.bias)  # pyright: ignore[reportArgumentType, reportCallIssue]


def probe_spec(config: ProbeConfig, classes: int) -> ClassifierSpec:
    """The probe's architecture for `classes` classes of all teachers together."""
    return ClassifierSpec(
        architecture=config.architecture,
        arguments={"width": config.width},
        classes=classes,
        input_size=config.input_size,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )


def train_probe(
    bank: ResidentBank,
    class_counts: Mapping[str, int],
    config: ProbeConfig,
    seed: int,
    after_step: Callable[[], None] = lambda: None,
) -> Probe:
    """Train the probe on the recovered images of all teachers: cross-entropy of each over its own teacher's classes.

    Args:
        bank: images at `config.input_size`; the probe is trained where they are.
        class_counts: classes of each teacher of `bank`, in its order.
        config: see there.
        seed: of the run.
        after_step: called after each step.

    Raises:
        DataError: the loss is not finite; the step is named.
    """
    classifier = build_classifier(probe_spec(config, sum(class_counts.values())), generator(seed, "probe", "weights"))
    classifier.to(bank.images.device)
    # From zero the heads of like tasks become alike; what is random in a head would pass for a difference of tasks.
    for parameter in classifier.network.head.parameters():
        nn.init.zeros_(parameter)
    counts = torch.tensor([class_counts[name] for name in bank.names])
    starts = counts.cumsum(0) - counts
    optimiser = torch.optim.Adam(classifier.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    classes = torch.arange(int(counts.sum()))
    classifier.train()
    for step in range(config.steps):
        random = generator(seed, "probe", "batch", step)
        owners = torch.randint(len(bank.names), (config.batch_size,), generator=random)
        places = bank.draw(owners, random)
        logits = classifier(shift_and_flip(bank.pixels(places), config.shift, random))
        first = starts[owners, None]
        own = (classes >= first) & (classes < first + counts[owners, None])
        wanted = (bank.labels[places] + first.squeeze(1)).to(logits.device)
        loss = functional.cross_entropy(logits.masked_fill(~own.to(logits.device), -torch.inf), wanted)
        if not bool(loss.isfinite()):
            raise DataError(f"the probe's loss is not finite at step {step}; lower probe.learning_rate")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        after_step()
    return Probe(classifier.eval(), class_counts)
