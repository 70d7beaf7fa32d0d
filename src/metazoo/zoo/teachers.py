"""Teachers: frozen models of a zoo."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Protocol, Self, final, overload

import torch
from torch import Tensor, nn

from metazoo.models import ImageClassifier
from metazoo.zoo.contract import ModelContract
from metazoo.zoo.weights import read_weights


class Teacher(Protocol):
    """Frozen image classifier that answers queries.

    Attributes:
        name: name of the model or service.
        classes: number of classes.
        input_size: side of the square input in pixels; images of other sizes are resized.
        channels: number of input channels, 1 or 3; other images are converted.
        is_white_box: whether weights, features and gradients are accessible, as in a `WhiteBoxTeacher`.
    """

    name: str
    classes: int
    input_size: int
    channels: int
    is_white_box: ClassVar[bool]

    def logits(self, images: Tensor) -> Tensor:
        """Logits [n, classes] of `images` [n, 1 or 3, h, w] in [0, 1], of any size; may lack a gradient."""
        ...


@final
class WhiteBoxTeacher(nn.Module):
    """Frozen zoo model with access to features, batch-norm statistics and gradients with respect to images.

    It stays in evaluation mode, even within a module that is set to training, and its parameters require no gradient.
    `classifier` itself is frozen, not a copy.

    Attributes:
        contract: contract of the model.
        classifier: network with its preprocessing, in channels-last memory format.
    """

    is_white_box: ClassVar[bool] = True

    def __init__(self, contract: ModelContract, classifier: ImageClassifier) -> None:
        super().__init__()
        self.contract, spec = contract, contract.spec
        self.name, self.classes = contract.name, spec.classes
        self.input_size, self.channels = spec.input_size, spec.channels
        self.classifier = classifier.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.requires_grad_(False)
        self.eval()

    def features(self, images: Tensor) -> Tensor:
        """Features [n, feature_size] of `images` [n, 1 or 3, h, w] in [0, 1], of any size."""
        return self.classifier.features(images)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [n, classes] of `images` [n, 1 or 3, h, w] in [0, 1], of any size."""
        return self.classifier(images)

    def logits(self, images: Tensor) -> Tensor:
        """Logits [n, classes] of images, with gradients; see `Teacher`."""
        return self(images)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever `mode` is."""
        return super().train(False)


@final
class Teachers(Sequence[WhiteBoxTeacher]):
    """Teachers in the order of their contracts, each loaded and checked on first use; see `Zoo.teacher`.

    Loaded teachers are kept up to `most` of them or `most_bytes` of weights, whichever allows more. Later ones are
    loaded at every use: keeping the most recent would never help callers that repeatedly use all teachers in order.
    """

    def __init__(
        self,
        folder: Path,
        contracts: Sequence[ModelContract],
        device: str = "cpu",
        *,
        most: int = 64,
        most_bytes: int = 32_000_000,
    ) -> None:
        self._folder, self._contracts, self._device = folder, tuple(contracts), device
        self._most, self._most_bytes = most, most_bytes
        self._held: dict[int, WhiteBoxTeacher] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._contracts)

    @overload
    def __getitem__(self, index: int) -> WhiteBoxTeacher: ...

    @overload
    def __getitem__(self, index: slice) -> "Teachers": ...

    def __getitem__(self, index: int | slice) -> "WhiteBoxTeacher | Teachers":
        if isinstance(index, slice):
            return Teachers(
                self._folder, self._contracts[index], self._device, most=self._most, most_bytes=self._most_bytes
            )
        index = range(len(self))[index]
        teacher = self._held.get(index)
        if teacher is None:
            contract = self._contracts[index]
            teacher = WhiteBoxTeacher(contract, read_weights(self._folder, contract)).to(self._device)
            size = sum(tensor.numel() * tensor.element_size() for tensor in teacher.state_dict().values())
            if len(self._held) < self._most or self._bytes + size <= self._most_bytes:
                self._held[index] = teacher
                self._bytes += size
        return teacher

    def __iter__(self) -> Iterator[WhiteBoxTeacher]:
        return (self[index] for index in range(len(self)))
