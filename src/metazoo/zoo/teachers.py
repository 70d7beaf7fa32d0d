"""A model of the zoo at work: frozen, and open to look into."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Protocol, Self, final, overload

import torch
from torch import Tensor, nn

from metazoo.models import ImageClassifier
from metazoo.zoo.contract import ModelContract
from metazoo.zoo.weights import read_weights


class Teacher(Protocol):
    """A frozen image classifier that answers queries.

    Attributes:
        name: name in its zoo or of its service.
        classes: number of its classes.
        input_size: side of its square input in pixels; images of other sizes are fitted to it.
        channels: 1 or 3; images of the other number are converted.
        is_white_box: whether it is a `WhiteBoxTeacher`: weights, features and gradients may be used.
    """

    name: str
    classes: int
    input_size: int
    channels: int
    is_white_box: ClassVar[bool]

    def logits(self, images: Tensor) -> Tensor:
        """Logits [n, classes] of `images` [n, 1 or 3, h, w] in [0, 1], of any size; no gradient is promised."""
        ...


@final
class WhiteBoxTeacher(nn.Module):
    """A frozen zoo model whose features, batch-norm statistics and gradients with respect to images may be used.

    It stays in evaluation mode, also as a part of a module that is set to training, and none of its parameters asks for
    a gradient. `classifier` is taken over: it is frozen as well.

    Attributes:
        contract: its record in the zoo.
        classifier: its network behind its preprocessing, in channels-last memory format.
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
        """Logits, as `forward`; see `Teacher`. Gradients reach the images."""
        return self(images)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever `mode` is."""
        return super().train(False)


_MANY, _BYTES_OF_MANY = 64, 32_000_000


@final
class Teachers(Sequence[WhiteBoxTeacher]):
    """Teachers in the order of their contracts, each loaded (and checked, see `Zoo.teacher`) when it is asked for.

    Of few models all stay loaded. Of more than 64 whose weights come to more than 32 MB, those stay that came first:
    where all are asked in turn, again and again, those used last are the wrong ones to keep.
    """

    def __init__(self, folder: Path, contracts: Sequence[ModelContract], device: str = "cpu") -> None:
        self._folder, self._contracts, self._device = folder, tuple(contracts), device
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
            return Teachers(self._folder, self._contracts[index], self._device)
        index = range(len(self))[index]
        teacher = self._held.get(index)
        if teacher is None:
            contract = self._contracts[index]
            teacher = WhiteBoxTeacher(contract, read_weights(self._folder, contract)).to(self._device)
            size = sum(tensor.numel() * tensor.element_size() for tensor in teacher.state_dict().values())
            if len(self._held) < _MANY or self._bytes + size <= _BYTES_OF_MANY:
                self._held[index] = teacher
                self._bytes += size
        return teacher

    def __iter__(self) -> Iterator[WhiteBoxTeacher]:
        return (self[index] for index in range(len(self)))
