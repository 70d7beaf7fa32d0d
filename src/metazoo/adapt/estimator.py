"""Few-shot classifier with the interface of scikit-learn."""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d

from metazoo.adapt.adaptation import FALSE_REJECTION, adapt
from metazoo.adapt.few_shot import FewShotClassifier
from metazoo.adapt.meta_model import MetaModel
from metazoo.errors import DataError, UsageError
from metazoo.features.embedders import Embedder
from metazoo.features.heads import DEFAULT_HEAD


class InvalidInputError(UsageError, ValueError):
    """Wrong images, labels or parameters, as the `ValueError` that scikit-learn expects."""


class MetazooClassifier(ClassNamePrefixFeaturesOutMixin, ClassifierMixin, TransformerMixin, BaseEstimator):
    """Classifier of images on a meta-model, for pipelines, cross-validation and searches of scikit-learn.

    Images X are in any form that `FewShotClassifier.predict` takes: an array [n, h, w, 3] or [n, 3, h, w], uint8 or
    float in [0, 1], or a list of paths, PIL images or arrays of any sizes. Labels y are whole numbers or strings. A
    table [n, features] is no image, so the checks of scikit-learn for tables do not apply.

    Args:
        meta_model: folder of a meta-model or a run, hf:OWNER/NAME of a meta-model on the Hugging Face Hub, a
            `MetaModel`, or another embedder of `metazoo.adapt.adapt`.
        head: name of a head in `metazoo.features.heads.HEADS`.
        batch_norm: batch-norm mode `running`, `support` or `query`.
        mirrored: whether features are means over an image and its mirror image.
        domain: known domain of the images; None recognises it.
        false_rejection: share of the images of the classes that may be rejected as unknown, in (0, 1).

    Attributes:
        classes_: sorted labels, [ways].
        classifier_: fitted `FewShotClassifier`, for `save`, `metazoo.export_classifier`, and unknown images
            (`classifier_.predict(X).unknown`).
    """

    def __init__(
        self,
        meta_model: Path | str | MetaModel | Embedder | None = None,
        *,
        head: str = DEFAULT_HEAD,
        batch_norm: str = "running",
        mirrored: bool = False,
        domain: str | None = None,
        false_rejection: float = FALSE_REJECTION,
    ) -> None:
        self.meta_model = meta_model
        self.head = head
        self.batch_norm = batch_norm
        self.mirrored = mirrored
        self.domain = domain
        self.false_rejection = false_rejection

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803 - the name that scikit-learn uses
        """Learn the classes of labelled images.

        Args:
            X: n images.
            y: label of each image; at least two different ones.

        Raises:
            InvalidInputError: no meta-model, an unknown head, mode or domain, labels that do not fit, or images that
                cannot be read or have a wrong shape, type or range.
            ArtefactError: the meta-model is damaged.
        """
        if y is None:
            problem = "requires y to be passed, but the target y is None"
            raise InvalidInputError("fit", problem, "give the labels of the images")
        labels = column_or_1d(y, warn=True)
        assert_all_finite(labels, input_name="y")
        check_classification_targets(labels)
        self.classes_, numbers = np.unique(labels, return_inverse=True)
        with _value_errors():
            model = _model(self.meta_model)
            learn = model.adapt if isinstance(model, MetaModel) else functools.partial(adapt, model)
            self.classifier_ = learn(
                _images(X),
                numbers.astype(np.int64),
                tuple(map(str, self.classes_)),
                head=self.head,
                batch_norm=self.batch_norm,
                mirrored=self.mirrored,
                domain=self.domain,
                false_rejection=self.false_rejection,
            )
        return self

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        """Probabilities [n, ways] in the order of `classes_`; see `FewShotClassifier.predict`."""
        fitted = self._fitted()
        with _value_errors():
            return fitted.predict(_images(X)).probabilities.numpy()

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """Predicted labels [n]."""
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]

    def transform(self, X: Any) -> np.ndarray:  # noqa: N803
        """Features [n, d] of length 1; see `FewShotClassifier.embed`."""
        fitted = self._fitted()
        with _value_errors():
            return fitted.embed(_images(X)).numpy()

    @property
    def _n_features_out(self) -> int:
        return self._fitted().feature_size

    def _fitted(self) -> FewShotClassifier:
        check_is_fitted(self, "classifier_")
        return self.classifier_

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = []
        return tags


@contextlib.contextmanager
def _value_errors() -> Iterator[None]:
    try:
        yield
    except (DataError, UsageError) as error:
        raise InvalidInputError(error.subject, error.problem, error.remedy) from error


def _images(given: Any) -> Any:
    """Images as `adapt` takes them; scikit-learn may pass a list of paths or pictures as an array of objects."""
    return given.tolist() if isinstance(given, np.ndarray) and given.dtype.kind in "OU" else given


def _model(meta_model: Any) -> MetaModel | Embedder:
    if meta_model is None:
        raise UsageError("meta_model", "missing", "give the folder of a run or a meta-model")
    if isinstance(meta_model, str | Path):
        inner = Path(meta_model) / "meta-model"
        return MetaModel.from_pretrained(inner if inner.is_dir() else meta_model)
    return meta_model
