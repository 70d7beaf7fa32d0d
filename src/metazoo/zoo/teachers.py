"""The teachers of a zoo one after the other, however many there are."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import final, overload

from metazoo.zoo.contract import ModelContract
from metazoo.zoo.teacher import WhiteBoxTeacher
from metazoo.zoo.weights import read_weights

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
