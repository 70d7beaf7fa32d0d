"""Query teachers: classifiers whose outputs are accessible, but not their weights."""

from collections.abc import Callable
from typing import ClassVar, Literal, NoReturn, final, get_args

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from metazoo.errors import MetazooError, QueryBudgetError, UsageError, ZooError, shown
from metazoo.models import ClassifierSpec, ImageClassifier, Network
from metazoo.storage.validation import first_problem

Outputs = Literal["logits", "probabilities"]
_LARGEST_ERROR_OF_A_SUM = 1e-2  # of probabilities in half precision, or rounded for the wire


@final
class QueryTeacher:
    """Classifier behind a function, such as a web service, that gives outputs only.

    Args:
        name: name in messages.
        answer: function from float32 images [m, channels, input_size, input_size] in [0, 1], on the CPU, to their
            outputs [m, classes], a tensor or an array.
        classes: number of classes.
        input_size: side of the square input in pixels; images of other sizes are resized (bilinear, antialiased).
        channels: number of input channels, 1 or 3; other images are converted.
        outputs: whether `answer` returns logits or probabilities.
        budget: largest total number of images sent; None for no limit.
        batch_size: largest number of images in one call.

    Attributes:
        queries: number of images sent so far, including those of failed calls.

    Raises:
        UsageError: an argument is out of bounds.
    """

    is_white_box: ClassVar[bool] = False

    def __init__(
        self,
        name: str,
        answer: Callable[[Tensor], Tensor | np.ndarray],
        *,
        classes: int,
        input_size: int,
        channels: Literal[1, 3] = 3,
        outputs: Outputs = "logits",
        budget: int | None = None,
        batch_size: int = 64,
    ) -> None:
        try:
            # The service does its own normalisation.
            fitting = ClassifierSpec(
                architecture="unknown",
                classes=classes,
                input_size=input_size,
                channels=channels,
                mean=(0.0,) * channels,
                std=(1.0,) * channels,
            )
        except ValidationError as error:
            raise UsageError(f"teacher {name!r}", first_problem(error), "change that value") from error
        if outputs not in get_args(Outputs) or batch_size < 1 or (budget is not None and budget < 0):
            raise UsageError(
                f"teacher {name!r}",
                f"impossible value in outputs {outputs!r}, batch_size {batch_size}, budget {budget}",
                f"choose outputs {' or '.join(get_args(Outputs))}, a batch_size of at least 1, and a budget of at "
                "least 0 or None",
            )
        self.name, self.classes = name, classes
        self.input_size, self.channels = input_size, int(channels)
        self.budget, self.queries = budget, 0
        self._answer, self._outputs, self._batch_size = answer, outputs, batch_size
        self._preprocess = ImageClassifier(fitting, _Unseen()).preprocess

    def logits(self, images: Tensor) -> Tensor:
        """Query the logits [n, classes] of images, float32 without a gradient, on their device.

        Probabilities are converted to their logarithms, after clamping to the smallest normal number.

        Args:
            images: float [n, 1 or 3, h, w] in [0, 1], of any size.

        Raises:
            QueryBudgetError: the images exceed the rest of the budget; none is sent.
            UsageError: `images` requires a gradient.
            ZooError: the function fails, or its outputs have a wrong shape, are not finite or not probabilities.
        """
        if images.requires_grad and torch.is_grad_enabled():
            self._refuse("the gradient of images")
        if self.budget is not None and self.queries + len(images) > self.budget:
            raise QueryBudgetError(self.name, self.budget, self.queries, len(images))
        if not len(images):
            return images.new_zeros(0, self.classes)
        with torch.no_grad():
            batches = self._preprocess(images).float().cpu().contiguous().split(self._batch_size)
            return torch.cat([self._logits_of(batch) for batch in batches]).to(images.device)

    def features(self, images: Tensor) -> NoReturn:
        """Raise a `UsageError`, since features need white-box access."""
        self._refuse("features")

    def _logits_of(self, batch: Tensor) -> Tensor:
        self.queries += len(batch)
        try:
            answer = self._answer(batch)
            values = (answer.detach() if isinstance(answer, Tensor) else torch.tensor(np.asarray(answer))).cpu().float()
        except MetazooError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {shown(error)}"
            raise ZooError(f"teacher {self.name!r}", f"cannot be queried ({reason})", "check its service") from error
        if values.shape != (len(batch), self.classes):
            self._complain(f"outputs of shape {[*values.shape]}, not {[len(batch), self.classes]}", "its classes")
        if not bool(values.isfinite().all()):
            self._complain("outputs are not finite", "its service")
        if self._outputs == "logits":
            return values
        if bool((values < 0).any()) or bool(((values.sum(1) - 1).abs() > _LARGEST_ERROR_OF_A_SUM).any()):
            self._complain("outputs are not probabilities: some are below 0 or do not sum to 1", "the option outputs")
        return values.clamp_min(torch.finfo(values.dtype).tiny).log()

    def _complain(self, problem: str, remedy: str) -> NoReturn:
        raise ZooError(f"teacher {self.name!r}", problem, f"check {remedy}")

    def _refuse(self, what: str) -> NoReturn:
        raise UsageError(
            f"teacher {self.name!r}",
            f"answers queries only, but {what} needs white-box access",
            "choose a method that needs only queries, or add its weights to the zoo",
        )


class _Unseen(Network):
    """Placeholder for the network of a query teacher."""

    def features(self, images: Tensor) -> Tensor:
        raise NotImplementedError
