"""Health of the recovered images by teacher."""

from collections.abc import Sequence
from dataclasses import dataclass

from metazoo.bank import Bank, Shard
from metazoo.recover.inversion import GUIDE_REJECTED
from metazoo.text import some_of

LEAST_AGREEMENT = 0.5


@dataclass(frozen=True)
class TeacherHealth:
    """Means over the recovered images of one teacher; see `inversion.Health`.

    Attributes:
        teacher: name of the teacher.
        images: number of images.
        agreement: share of images with the target class as prediction, in [0, 1].
        batch_norm_distance: distance from the batch-norm statistics of the teacher; None without batch norm.
        batch_norm_distance_at_start: the same distance at the start of the inversion.
        without_guide: name of a guide that was rejected for some images, or None.
    """

    teacher: str
    images: int
    agreement: float
    batch_norm_distance: float | None
    batch_norm_distance_at_start: float | None
    without_guide: str | None = None

    @property
    def doubtful(self) -> bool:
        """Whether the teacher does not recognise most of its own images."""
        return self.agreement < LEAST_AGREEMENT


def health_rows(bank: Bank, generation: int | None = None) -> list[TeacherHealth]:
    """Health of every teacher in the bank, by name, in one generation (the latest of each teacher if None).

    Teachers without that generation are left out; an agreement that was not recorded counts as 0.
    """
    rows = []
    for teacher in bank.teachers:
        if generation is None or generation in bank.generations_of(teacher):
            shards = bank.shards_of(teacher, generation)
            images = sum(shard.images for shard in shards)
            agreement, distance, at_start = (_mean(shards, field) for field in _FIGURES)
            if at_start == 0:  # older banks without batch norm
                distance = at_start = None
            rejected = any(GUIDE_REJECTED in shard.health for shard in shards)
            guide = str(bank.made_with(teacher, generation)["guide"]) if rejected else None
            rows.append(TeacherHealth(teacher, images, agreement or 0.0, distance, at_start, guide))
    return rows


_FIGURES = ("agreement", "batch_norm_distance", "batch_norm_distance_at_start")


def _mean(shards: Sequence[Shard], figure: str) -> float | None:
    known = [(shard.images, shard.health[figure]) for shard in shards if figure in shard.health]
    return sum(images * value for images, value in known) / sum(images for images, _ in known) if known else None


def health_warning(rows: Sequence[TeacherHealth], remedy: str = "raise recovery.iterations") -> str | None:
    """Warning about doubtful teachers, the worst first, and about rejected guides; None if there are neither.

    Args:
        rows: health of all teachers.
        remedy: remedy for doubtful teachers, besides their removal.
    """
    sentences = []
    doubtful = sorted((row for row in rows if row.doubtful), key=lambda row: (row.agreement, row.teacher))
    if doubtful:
        named = some_of([f"{row.teacher} ({100 * row.agreement:.0f} %)" for row in doubtful])
        sentences.append(
            f"{len(doubtful)} of {len(rows)} teachers recognise less than {100 * LEAST_AGREEMENT:.0f} % of the images "
            f"recovered from them: {named}; {remedy}, or remove these teachers from the zoo"
        )
    alone = [f"{row.teacher} (guide {row.without_guide})" for row in rows if row.without_guide is not None]
    if alone:
        sentences.append(
            f"{len(alone)} of {len(rows)} teachers were recovered without their guide, which made the images worse: "
            f"{some_of(alone)}; check teachers and guides with `metazoo zoo verify`"
        )
    return ". ".join(sentences) or None
