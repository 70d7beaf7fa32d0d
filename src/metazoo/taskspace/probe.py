"""The probe: the one network in whose weights every task of the zoo is embedded.

The published probe is an ImageNet ResNet-34 with its own 1000-way head, whose class k every task's class k is scored
against, so the embedding depends on the arbitrary order of the classes and on images that the user may not have. Here
the run trains a small network on the recovered images of the whole zoo (data-free): one shared body, and for every
teacher a head of its own for its own classes. The embedding is the Fisher information of the body alone, so it does not
depend on the order or the number of classes.
"""

from collections.abc import Callable, Mapping
from typing import final

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from metazoo.bank import ResidentBank
from metazoo.data.augment import shift_and_flip
from metazoo.errors import DataError
from metazoo.models import LARGEST_WIDTH, ArchitectureName, ClassifierSpec, ImageClassifier, build_classifier
from metazoo.run.randomness import generator
from metazoo.taskspace.fisher import TaskEmbedding, diagonal_fisher

_FISHER_CHUNK = 32


class ProbeRecipe(BaseModel):
    """How the probe is trained and how many images embed a task."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    architecture: ArchitectureName = Field(default="conv4", description="of the probe's body")
    width: int = Field(default=32, ge=1, le=LARGEST_WIDTH, description="of the architecture")
    input_size: int = Field(default=32, ge=16, le=256, description="side in pixels that recovered images are fitted to")
    steps: int = Field(default=300, ge=1, description="steps of Adam")
    batch_size: int = Field(default=128, ge=2)
    learning_rate: float = Field(default=2e-3, gt=0)
    shift: int = Field(default=4, ge=0, description="largest shift of the augmentation in pixels")
    fisher_images: int = Field(
        default=150, ge=1, description="most images of a teacher that its embedding is computed from"
    )


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

    def embed(self, name: str, images: Tensor, labels: Tensor) -> TaskEmbedding:
        """The Fisher embedding of teacher `name` on its recovered images.

        Args:
            name: of a teacher that the probe was trained with.
            images: uint8 [n, channels, side, side].
            labels: int64 [n], local classes.

        Raises:
            DataError: as `diagonal_fisher`.
        """
        view = _TaskView(self.classifier, self._slices[name])
        pixels = self.classifier.preprocess(images.float() / 255)
        return TaskEmbedding(name, diagonal_fisher(view, pixels, labels, chunk=_FISHER_CHUNK))


class _TaskView(nn.Module):
    """The probe as one teacher's classifier: the shared body is trainable, the teacher's head is fixed."""

    def __init__(self, classifier: ImageClassifier, classes: slice) -> None:
        super().__init__()
        network = classifier.network
        self.network = network
        for parameter in network.parameters():
            parameter.requires_grad_(True)
        for parameter in network.head.parameters():
            parameter.requires_grad_(False)
        self.register_buffer("weight", network.head.weight.detach()[classes])
        self.register_buffer("bias", network.head.bias.detach()[classes])

    def forward(self, images: Tensor) -> Tensor:
        return functional.linear(self.network.features(images), self.weight, self.bias)  # pyright: ignore[reportArgumentType, reportCallIssue]


def probe_spec(recipe: ProbeRecipe, classes: int) -> ClassifierSpec:
    """The probe's architecture for `classes` classes of all teachers together."""
    return ClassifierSpec(
        architecture=recipe.architecture,
        arguments={"width": recipe.width},
        classes=classes,
        input_size=recipe.input_size,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )


def train_probe(
    bank: ResidentBank,
    class_counts: Mapping[str, int],
    recipe: ProbeRecipe,
    seed: int,
    after_step: Callable[[], None] = lambda: None,
) -> Probe:
    """Train the probe on the recovered images of all teachers: cross-entropy of each over its own teacher's classes.

    Args:
        bank: images at `recipe.input_size`.
        class_counts: classes of each teacher of `bank`, in its order.
        recipe: see there.
        seed: of the run.
        after_step: called after each step.

    Raises:
        DataError: the loss is not finite; the step is named.
    """
    classifier = build_classifier(probe_spec(recipe, sum(class_counts.values())), generator(seed, "probe", "weights"))
    # From zero the heads of like tasks become alike; what is random in a head would pass for a difference of tasks.
    for parameter in classifier.network.head.parameters():
        nn.init.zeros_(parameter)
    counts = torch.tensor([class_counts[name] for name in bank.names])
    starts = counts.cumsum(0) - counts
    optimiser = torch.optim.Adam(classifier.parameters(), lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.steps)
    classes = torch.arange(int(counts.sum()))
    classifier.train()
    for step in range(recipe.steps):
        random = generator(seed, "probe", "batch", step)
        owners = torch.randint(len(bank.names), (recipe.batch_size,), generator=random)
        places = bank.draw(owners, random)
        logits = classifier(shift_and_flip(bank.pixels(places), recipe.shift, random))
        first = starts[owners, None]
        own = (classes >= first) & (classes < first + counts[owners, None])
        loss = functional.cross_entropy(logits.masked_fill(~own, -torch.inf), bank.labels[places] + first.squeeze(1))
        if not bool(loss.isfinite()):
            raise DataError(f"the probe's loss is not finite at step {step}; lower probe.learning_rate")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        after_step()
    return Probe(classifier.eval(), class_counts)
