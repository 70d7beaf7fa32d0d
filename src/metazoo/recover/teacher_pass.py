"""Forward passes through a frozen teacher, for inversion."""

import contextlib
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from metazoo.recover.statistics import BatchNormReader, BatchNormStatistics
from metazoo.recover.tokens import PatchTokens
from metazoo.zoo.teachers import WhiteBoxTeacher

_GUESSED_CHANNELS = 32


@final
class TeacherPass:
    """Forward passes with batch-norm statistics; the teacher is not changed.

    Args:
        teacher: frozen model.
        values_at_once: largest number of input values of a batch norm in one part. 4 MB of activations fit into the
            cache of a core, and memory blocks of that size are reused at every step. In one part (20 MB), a bucket of
            150 images of 32 pixels through conv4 takes 1.5 times as long.
    """

    def __init__(self, teacher: WhiteBoxTeacher, *, values_at_once: int = 2**20) -> None:
        self.name, self._teacher, self._reader = teacher.name, teacher, BatchNormReader(teacher)
        self._values_at_once = values_at_once

    def __call__(
        self,
        images: Float[Tensor, "n channels side side"],
        tokens: PatchTokens | None = None,
        kept: Int64[Tensor, "n k"] | None = None,
        *,
        with_features: bool = False,
    ) -> tuple[Float[Tensor, "n classes"], Float[Tensor, "n feature_size"] | None, BatchNormStatistics]:
        """Run the teacher on one batch, in parts on a CPU.

        Args:
            images: images in [0, 1].
            tokens: patch tokens of the teacher, needed for `kept`.
            kept: indices of the patches to keep; None for all.
            with_features: whether to return the features.

        Returns:
            Logits, features or None, and statistics, all differentiable.
        """
        count, _, height, width = images.shape
        largest = self._reader.largest_input or _GUESSED_CHANNELS * height * width
        parts = -(-count * largest // self._values_at_once) if images.device.type == "cpu" else 1
        parts = min(parts, count)
        chosen = [None] * parts if kept is None else kept.tensor_split(parts)
        logits, features = [], []
        with self._reader as reader:
            for part, patches in zip(images.tensor_split(parts), chosen, strict=True):
                with contextlib.nullcontext() if tokens is None else tokens.only(patches):
                    shown = part.contiguous(memory_format=torch.channels_last)
                    if with_features:
                        features.append(self._teacher.features(shown))
                        logits.append(self._teacher.classifier.network.head(features[-1]))
                    else:
                        logits.append(self._teacher(shown))
        statistics = BatchNormStatistics(reader.observed, reader.stored)
        reader.clear()  # it references the graph
        return torch.cat(logits), torch.cat(features) if with_features else None, statistics
