"""Supervised training of one classifier of a zoo."""

import itertools
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from metazoo.data import ImageSet
from metazoo.data.augment import ShiftAndFlip
from metazoo.errors import UsageError, ZooError
from metazoo.execution import randomness
from metazoo.execution.optimisers import Adam, GradientDescent, Optimiser
from metazoo.execution.repeat import Repeated
from metazoo.execution.signals import check_stop
from metazoo.models import ClassifierSpec, ImageClassifier, build_classifier
from metazoo.renamed import renamed_arguments
from metazoo.zoo.training_config import TrainingConfig

_IMAGES_AT_ONCE = 256
_LEAST_DEVIATION = 1 / 255


def with_pixel_statistics(spec: ClassifierSpec, images: Tensor) -> ClassifierSpec:
    """Copy of `spec` with the channel means and standard deviations of `images` (uint8 [n, 3, h, w]), to 4 decimals.

    They are measured after conversion to the input size and channels of `spec`. Standard deviations are at least one
    grey level.
    """
    plain = spec.model_copy(update={"mean": (0.0,) * spec.channels, "std": (1.0,) * spec.channels})
    preprocess = build_classifier(plain, torch.Generator()).preprocess
    total = squares = torch.zeros(spec.channels, dtype=torch.float64)
    for part in images.split(_IMAGES_AT_ONCE):
        pixels = preprocess(_to_unit_range(part)).double()
        total, squares = total + pixels.mean((2, 3)).sum(0), squares + pixels.square().mean((2, 3)).sum(0)
    mean, square = total / len(images), squares / len(images)
    std = (square - mean.square()).clamp_min(0).sqrt().clamp_min(_LEAST_DEVIATION)
    rounded = {"mean": mean, "std": std}
    return spec.model_copy(update={k: tuple(round(x, 4) for x in v.tolist()) for k, v in rounded.items()})


@renamed_arguments(recipe="config")
def train_classifier(
    spec: ClassifierSpec,
    training_set: ImageSet,
    validation_set: ImageSet,
    config: TrainingConfig,
    generator: torch.Generator,
    *,
    name: str = "without a name",
    device: str = "cpu",
) -> tuple[ImageClassifier, float]:
    """Train a new classifier; the weights of the last step are kept.

    Deterministic on a CPU given the generator and the number of threads. On a GPU, steps are replayed CUDA graphs.

    Args:
        spec: description of the classifier, including its mean and standard deviation.
        training_set: at least 2 images, with as many classes as `spec`.
        validation_set: images of the same classes.
        config: training configuration; None values stand for the published ones of the architecture.
        generator: source of the initial weights, the order of the images and their augmentation.
        name: name of the model, for errors.
        device: device to train on.

    Returns:
        The classifier, in evaluation mode and on the CPU, and its accuracy on the validation images in percent.

    Raises:
        UsageError: the sets do not fit the spec; see also `build_classifier` and `TrainingConfig.resolved`.
        ZooError: the loss or the weights become infinite or NaN.
    """
    _check_classes(spec, training_set, validation_set)
    config = config.resolved(spec.architecture)
    classifier = build_classifier(spec, generator).to(device).train()
    order_seed = int(torch.randint(0, 2**63 - 1, (1,), generator=generator))
    parameters = [*classifier.parameters()]
    optimiser = _optimiser(parameters, config)
    images = training_set.images.to(device).contiguous(memory_format=torch.channels_last)
    labels = training_set.labels.to(device)
    finite = torch.ones((), dtype=torch.bool, device=device)
    augmentation = None if config.largest_shift is None else ShiftAndFlip(config.largest_shift)

    def step(rate: float, batch: Tensor, *draws: Tensor) -> None:
        shown = _to_unit_range(images[batch])
        if augmentation is not None:
            shown = augmentation.apply(shown, *draws)
        logits = classifier(shown.contiguous(memory_format=torch.channels_last))
        loss = functional.cross_entropy(logits, labels[batch])
        classifier.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, config.gradient_norm)
        optimiser.step([parameter.grad for parameter in parameters], rate)
        finite.logical_and_(loss.isfinite())

    for rate, epochs in itertools.groupby(range(config.epochs), config.learning_rate_in):
        repeated = Repeated(partial(step, rate), images.device)  # the rate is fixed in a recording
        for epoch in epochs:
            random = randomness.generator(order_seed, "zoo-training-order", "epoch", epoch)
            for batch in torch.randperm(len(images), generator=random).to(device).split(config.batch_size):
                if len(batch) > 1:  # the variance in batch norm needs two values
                    draws = [] if augmentation is None else [augmentation.draw(len(batch), random).to(device)]
                    repeated(batch, *draws)
            if not bool(finite):  # checked once per epoch, since it synchronises the GPU
                raise _not_finite("loss", name, epoch, config)
            if not all(bool(parameter.isfinite().all()) for parameter in classifier.parameters()):
                raise _not_finite("weights", name, epoch, config)
            check_stop()
    return classifier.cpu().eval(), validation_accuracy(classifier, validation_set)


def _optimiser(parameters: Sequence[Tensor], config: TrainingConfig) -> Optimiser:
    decay = config.weight_decay or 0.0
    if config.optimiser == "adam":
        return Adam(parameters, weight_decay=decay)
    return GradientDescent(parameters, momentum=config.momentum or 0.0, weight_decay=decay)


def validation_accuracy(classifier: ImageClassifier, image_set: ImageSet) -> float:
    """Accuracy on an image set, in percent."""
    correct = 0
    with torch.inference_mode():
        for images, labels in zip(
            image_set.images.split(_IMAGES_AT_ONCE), image_set.labels.split(_IMAGES_AT_ONCE), strict=True
        ):
            correct += int((classifier(_to_unit_range(images)).argmax(1) == labels).sum())
    return 100 * correct / len(image_set)


def _to_unit_range(images: Tensor) -> Tensor:
    return images.float().div_(255)


def _check_classes(spec: ClassifierSpec, training_set: ImageSet, validation_set: ImageSet) -> None:
    training_classes, validation_classes = training_set.class_names, validation_set.class_names
    if training_classes != validation_classes or len(training_classes) != spec.classes:
        counts = f"{len(training_classes)} training and {len(validation_classes)} validation classes"
        raise UsageError(training_set.name, f"{counts} for a model of {spec.classes}", "give the same classes")
    if len(training_set) < 2:
        raise UsageError(training_set.name, "has one image, but training needs at least 2", "give more")


def _not_finite(what: str, name: str, epoch: int, config: TrainingConfig) -> ZooError:
    problem = f"{what} infinite or NaN in epoch {epoch + 1} of the training"
    return ZooError(f"model {name}", problem, f"lower the learning rate ({config.learning_rate:g})")
