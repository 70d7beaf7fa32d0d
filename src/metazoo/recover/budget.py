"""The amount of recovery: classes of a teacher, images of each, and buckets."""

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from metazoo.execution.randomness import generator


class RecoveryBudget(BaseModel):
    """How many images are recovered from every teacher, and how much disk they may take."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images_per_class: int = Field(default=60, ge=1, description="images of every class of every teacher")
    classes_per_teacher: int = Field(
        default=64, ge=1, description="of a teacher with more classes, that many are drawn"
    )
    bucket_size: int = Field(
        default=150, ge=1, description="largest number of images recovered together, the unit of work"
    )
    stored_side: int = Field(
        default=84, ge=1, description="largest stored side in pixels; larger images are scaled down"
    )
    disk_megabytes: int = Field(
        default=4000, ge=1, description="largest size of the bank, all generations, in 10^6 bytes"
    )
    generation: int = Field(
        default=0, ge=0, description="a further one recovers fresh images beside those that are there"
    )


def chosen_classes(classes: int, budget: RecoveryBudget, seed: int, teacher: str) -> Tensor:
    """The local classes that are recovered: int64 [min(classes, classes_per_teacher)], in an order drawn by seed.

    All generations have the same ones.
    """
    order = torch.randperm(classes, generator=generator(seed, "recovered classes", teacher))
    return order[: budget.classes_per_teacher]


def plan_buckets(classes: int, budget: RecoveryBudget, seed: int, teacher: str) -> list[Tensor]:
    """Split the images of one teacher into buckets of nearly equal size, none above `bucket_size`.

    The batch-norm term compares a bucket's mix with the mix that the teacher was trained on, so every bucket holds as
    many different classes as it has room for, and no class in it has two images more than another of the chosen ones.

    Args:
        classes: number of classes of the teacher.
        budget: numbers of images and of classes, and the size of a bucket.
        seed: seed of the run.
        teacher: name of the teacher, which with the seed determines all draws.

    Returns:
        Wanted local classes of each bucket, int64 [size].
    """
    # Whole rounds over the classes, cut wherever a bucket is full.
    labels = chosen_classes(classes, budget, seed, teacher).repeat(budget.images_per_class)
    return [part.clone() for part in labels.tensor_split(-(-len(labels) // budget.bucket_size))]
