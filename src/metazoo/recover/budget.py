"""Number of recovered classes and images per teacher, and their split into buckets."""

import torch
from jaxtyping import Int64
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from metazoo.execution.randomness import generator


class RecoveryBudget(BaseModel):
    """Number of images recovered from every teacher, and their space on disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images_per_class: int = Field(default=60, ge=1, description="images per class and teacher")
    classes_per_teacher: int = Field(
        default=64, ge=1, description="largest number of classes per teacher; drawn at random"
    )
    bucket_size: int = Field(
        default=150, ge=1, description="largest number of images of one unit of work, recovered together"
    )
    bucket_pixels: int | None = Field(
        default=None,
        ge=1,
        description="largest number of input pixels of all images of one unit of work, which bounds its memory; null: "
        "no bound",
    )
    stored_side: int = Field(
        default=84, ge=1, description="largest stored side in pixels; larger images are scaled down"
    )
    disk_megabytes: int = Field(
        default=4000, ge=1, description="largest size of the bank, all generations, in 10^6 bytes"
    )
    generation: int = Field(
        default=0, ge=0, description="number of the generation; a new number recovers further images"
    )

    def bucket_size_at(self, side: int) -> int:
        """Largest number of images of `side` pixels in a bucket, at least 1."""
        most = self.bucket_size if self.bucket_pixels is None else self.bucket_pixels // side**2
        return max(1, min(self.bucket_size, most))


def chosen_classes(
    classes: int, budget: RecoveryBudget, seed: int, teacher: str
) -> Int64[Tensor, " {min(classes,budget.classes_per_teacher)}"]:
    """Draw the classes of a teacher that are recovered, in random order.

    They are the same in all generations.
    """
    order = torch.randperm(classes, generator=generator(seed, "recovered classes", teacher))
    return order[: budget.classes_per_teacher]


def plan_buckets(
    classes: int, budget: RecoveryBudget, seed: int, teacher: str, side: int = 1
) -> list[Int64[Tensor, " _"]]:
    """Split the images of one teacher into buckets of nearly equal size, at most `bucket_size_at(side)`.

    The batch-norm term compares the class mix of a bucket with that of the training images. Every bucket therefore
    holds as many different classes as possible, and the numbers of images of two chosen classes differ by at most one.

    Args:
        classes: number of classes of the teacher.
        budget: number of images and classes, and size of a bucket.
        seed: seed of the run.
        teacher: name of the teacher, which determines the draw together with the seed.

    Returns:
        Target classes of each bucket.
    """
    # All classes in turn, again and again, cut where a bucket is full.
    labels = chosen_classes(classes, budget, seed, teacher).repeat(budget.images_per_class)
    return [part.clone() for part in labels.tensor_split(-(-len(labels) // budget.bucket_size_at(side)))]
