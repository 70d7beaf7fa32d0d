"""Making few-shot classifiers from images."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Int64
from torch import Tensor

from metazoo import choices
from metazoo.adapt.bundle import ClassifierDescription
from metazoo.adapt.few_shot import FewShotClassifier
from metazoo.adapt.fitting import FittedSupport, canonical_order, digests, fit_support, networks_of, without_teachers
from metazoo.adapt.held_out import HeldOut
from metazoo.adapt.support import checked_images, checked_labels, image_names_of, pixels_of, unique_names
from metazoo.adapt.support_record import HeldOutRecord, SupportImage, Version
from metazoo.errors import MetazooError, UsageError
from metazoo.features.batch_norm import BatchNormMode, batch_norm_mode, has_batch_norm
from metazoo.features.embedders import Embedder, JointFeatures, MultiDomainClassifier, for_known_domain
from metazoo.features.heads import DEFAULT_HEAD, get_head

AUTO = choices.AUTO_HEAD
_CANDIDATES = (choices.LOGISTIC, choices.RIDGE, choices.NEAREST_MEAN, choices.FINE_TUNE)
FALSE_REJECTION = choices.FALSE_REJECTION
"""Default share of the images of known classes that may be rejected as unknown."""


def adapt(
    module: Embedder,
    support_images: Any,
    support_labels: Any,
    class_names: Sequence[str] | None = None,
    *,
    head: str = DEFAULT_HEAD,
    batch_norm: str = "running",
    mirrored: bool = False,
    domain: str | None = None,
    source: str = "",
    licences: Sequence[str] = (),
    image_names: Sequence[str] | None = None,
    false_rejection: float = FALSE_REJECTION,
    keep_images: bool = False,
) -> FewShotClassifier:
    """Make a classifier of new classes from a few images of each, with the same heads as `evaluate`.

    Probabilities are calibrated and unknown images recognised by the support alone; see `metazoo.adapt.held_out`.

    Args:
        module: `ImageClassifier` or `MultiDomainClassifier` (the `module` of a meta-model), teacher of a zoo, or
            `JointFeatures` of classifiers and teachers. It is copied.
        support_images: images in any form that `FewShotClassifier.predict` takes.
        support_labels: labels, one per image: whole numbers from 0 to ways - 1, or class names; a list, a tensor or an
            array. Classes may have different numbers of images.
        class_names: names of the classes. None stands for their numbers, or for the sorted names in `support_labels`.
        head: name of a head in `metazoo.features.heads.HEADS`, or `auto`, which chooses head and batch-norm mode by
            their cross-entropy on held-out support images: `logistic`, `ridge`, `nearest-mean` and `fine-tune`, with
            batch norm `running` and `support`. If all classes have a single image, it chooses the default.
        batch_norm: batch-norm mode `running`, `support` or `query`; ignored if `head` is `auto`.
        mirrored: whether to use `MirroredFeatures`, also in predictions.
        domain: known domain of the images, one of those of the meta-model; None recognises it from the images.
        source: origin of the model, stored as a note in the bundle.
        licences: licences of the source models, for the card of the bundle; `unknown` for those without one.
        image_names: names of the images, for explanations; repeated ones get a number. None stands for the end of their
            paths, or their numbers.
        false_rejection: share of the images of the classes that may be rejected as unknown, in (0, 1).
        keep_images: whether the classifier stores the support images, resized, beside their features.

    Raises:
        UsageError: an unknown head, mode or domain, labels or names that do not fit, a module of another type, or a
            file that does not exist.
        DataError: no image, a wrong shape, type or range, or a file that cannot be read.
    """
    if not 0 < false_rejection < 1:
        raise UsageError("false_rejection", f"{false_rejection:g} is not a share", "give a number between 0 and 1")
    domains: dict[str, float] = {}
    if domain is not None:
        module, domains = for_known_domain(module, domain), {domain: 1.0}
    embedder = without_teachers(module)
    mode: BatchNormMode = batch_norm_mode(batch_norm)
    images = checked_images(support_images, max(network.spec.input_size for network in networks_of(embedder)))
    labels, names = checked_labels(support_labels, len(images), class_names)
    image_names = image_names_of(support_images, len(images)) if image_names is None else image_names
    if len(image_names) != len(images):
        raise UsageError("image_names", f"{len(image_names)} names for {len(images)} images", "give one per image")
    image_names = unique_names(image_names)
    hashes = digests(images)
    order = canonical_order(labels.tolist(), hashes)
    images, labels = images[order], labels[order]
    fit = functools.partial(
        fit_support, embedder, images=images, labels=labels, ways=len(names), mirrored=mirrored, rate=false_rejection
    )
    if head == AUTO:
        head, mode, found = _best(fit, has_batch_norm(embedder))
    else:
        found = fit(get_head(head), batch_norm=mode)
    if found.fitted.shares is not None:
        assert isinstance(embedder, MultiDomainClassifier)
        domains = dict(zip(embedder.recogniser.domains, found.fitted.shares.tolist(), strict=True))
    has_support = found.features is not None
    description = ClassifierDescription(
        networks=tuple(network.spec for network in networks_of(found.module)),
        head=head,
        head_kind=found.fitted.kind,
        batch_norm=mode,
        mirrored=mirrored,
        domains=domains,
        class_names=names,
        joint=isinstance(found.module, JointFeatures),
        source=source,
        licences=tuple(licences),
        temperature=found.fitted.temperature,
        threshold=found.threshold,
        false_rejection=false_rejection,
        held_out=record_of(found.held_out),
        support=tuple(SupportImage(name=image_names[i], sha256=hashes[i]) for i in order) if has_support else (),
        has_support_images=keep_images and has_support,
        versions=(Version(change="adapted", class_names=names, members=members_of(labels, len(names))),)
        if has_support
        else (),
    )
    kept = pixels_of(images) if keep_images and has_support else None
    return FewShotClassifier(found.module, found.fitted, description, found.features, kept, found.held_out)


def _best(fit: Callable[..., FittedSupport], has_modes: bool) -> tuple[str, BatchNormMode, FittedSupport]:
    """Head, batch-norm mode and result with the least cross-entropy on held-out images."""
    best: tuple[float, str, BatchNormMode, FittedSupport] | None = None
    modes: tuple[BatchNormMode, ...] = ("running", "support") if has_modes else ("running",)
    refusal: MetazooError | None = None
    for name, mode in itertools.product(_CANDIDATES, modes):
        try:
            found = fit(get_head(name), batch_norm=mode)
        except MetazooError as error:  # no stored statistics, or fine-tuning diverged
            refusal = error
            continue
        if found.held_out is None and (best is None or best[0] == math.inf):
            return name, mode, found
        loss = math.inf if found.held_out is None else found.held_out.loss(found.fitted.temperature)
        if best is None or loss < best[0]:
            best = loss, name, mode, found
    if best is None:
        assert refusal is not None
        raise refusal
    return best[1:]


def members_of(labels: Int64[Tensor, " n"], ways: int) -> tuple[tuple[int, ...], ...]:
    """Positions of the labels of each class."""
    return tuple(tuple((labels == label).nonzero().squeeze(1).tolist()) for label in range(ways))


def record_of(held_out: HeldOut | None) -> HeldOutRecord | None:
    """Record of held-out predictions for `bundle.json`."""
    if held_out is None:
        return None
    return HeldOutRecord(images=len(held_out.labels), correct=held_out.correct, folds=held_out.folds)
