"""A teacher that answers queries and shows nothing else of itself."""

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
    """A classifier behind a function, such as a web service, of which outputs are all that can be had.

    Args:
        name: name in messages.
        answer: function from float32 images [m, channels, input_size, input_size] in [0, 1], on the CPU, to their
            outputs [m, classes], a tensor or an array.
        classes: number of its classes.
        input_size: side of its square input in pixels; images of other sizes are resized (bilinear, antialiased).
        channels: 1 or 3; images of the other number are converted.
        outputs: whether it answers with logits or with probabilities.
        budget: largest number of images that are sent in all; None for no limit.
        batch_size: largest number of images in one call.

    Attributes:
        queries: number of images sent so far, also those of a call that failed.

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
            # Whatever normalisation there is belongs to the service.
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
                f"teacher {name!r} has outputs {outputs!r}, batch_size {batch_size}, budget {budget}; choose outputs "
                f"{' or '.join(get_args(Outputs))}, a batch_size of at least 1, and a budget of at least 0 or None"
            )
        self.name, self.classes = name, classes
        self.input_size, self.channels = input_size, int(channels)
        self.budget, self.queries = budget, 0
        self._answer, self._outputs, self._batch_size = answer, outputs, batch_size
        self._preprocess = ImageClassifier(fitting, _Unseen()).preprocess

    def logits(self, images: Tensor) -> Tensor:
        """Query the logits [n, classes] of images, float32 without a gradient, on their device.

        Of probabilities they are the logarithms, of 0 that of the smallest normal number.

        Args:
            images: float [n, 1 or 3, h, w] in [0, 1], of any size.

        Raises:
            QueryBudgetError: all images together are more than the budget leaves; then none is sent.
            UsageError: a gradient of the images is asked for.
            ZooError: the function fails, or its answer is of another shape, not finite, or not of probabilities.
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
        """Raise a `UsageError`: features need white-box access."""
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
            raise ZooError(f"teacher {self.name!r} could not be queried ({reason}); check its service") from error
        if values.shape != (len(batch), self.classes):
            self._complain(f"outputs of shape {[*values.shape]}, not {[len(batch), self.classes]}", "its classes")
        if not bool(values.isfinite().all()):
            self._complain("outputs that are not finite", "its service")
        if self._outputs == "logits":
            return values
        if bool((values < 0).any()) or bool(((values.sum(1) - 1).abs() > _LARGEST_ERROR_OF_A_SUM).any()):
            self._complain("outputs that are no probabilities: below 0, or of another sum than 1", "option outputs")
        return values.clamp_min(torch.finfo(values.dtype).tiny).log()

    def _complain(self, problem: str, remedy: str) -> NoReturn:
        raise ZooError(f"teacher {self.name!r} gave {problem}; check {remedy}")

    def _refuse(self, what: str) -> NoReturn:
        raise UsageError(
            f"teacher {self.name!r} answers queries only, and {what} would need white-box access; choose a method that "
            "needs only queries, or add its weights to the zoo"
        )


class _Unseen(Network):
    """The network of a query teacher."""

    def features(self, images: Tensor) -> Tensor:
        raise NotImplementedError
