"""Forward passes through a frozen teacher, for inversion."""

import contextlib
from typing import final

import torch
from torch import Tensor

from metazoo.recover.statistics import BatchNormReader, BatchNormStatistics
from metazoo.recover.tokens import PatchTokens
from metazoo.zoo.teachers import WhiteBoxTeacher

# 4 MB of activations stay in a core's cache, and blocks of that size serve one step after the other. A bucket of
# 150 images of 32 pixels through conv4 (20 MB) takes half as long again in one piece.
_VALUES_AT_ONCE = 2**20
_GUESSED_CHANNELS = 32


@final
class TeacherPass:
    """Forward passes that also read batch-norm statistics; between two of them the teacher is as it was.

    Args:
        teacher: a frozen model.
    """

    def __init__(self, teacher: WhiteBoxTeacher) -> None:
        self.name, self._teacher, self._reader = teacher.name, teacher, BatchNormReader(teacher)

    def __call__(
        self,
        images: Tensor,
        tokens: PatchTokens | None = None,
        kept: Tensor | None = None,
        *,
        with_features: bool = False,
    ) -> tuple[Tensor, Tensor | None, BatchNormStatistics]:
        """Run the teacher on one batch, which a CPU takes in parts.

        Args:
            images: float [n, channels, side, side] in [0, 1].
            tokens: patch tokens of the teacher, to leave some of them out.
            kept: indices of the patches that the teacher continues with, int64 [n, k]; None keeps all.
            with_features: whether the features are returned; the logits are the same.

        Returns:
            Logits [n, classes], features [n, feature_size] or None, and the statistics, all differentiable.
        """
        count, _, height, width = images.shape
        largest = self._reader.largest_input or _GUESSED_CHANNELS * height * width
        parts = -(-count * largest // _VALUES_AT_ONCE) if images.device.type == "cpu" else 1
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
        reader.clear()  # holds the graph
        return torch.cat(logits), torch.cat(features) if with_features else None, statistics
