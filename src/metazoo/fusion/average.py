"""Averages of weights, the simplest fusion of models, and what other fusions share with it."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from metazoo.errors import UsageError
from metazoo.models import ClassifierSpec, ImageClassifier, Network, build_classifier, network_without_weights
from metazoo.zoo import Zoo

HEAD = "head."
"""Start of the names of the tensors of the class head."""


def average_parameters(classifiers: Iterable[ImageClassifier], spec: ClassifierSpec) -> ImageClassifier | None:
    """Elementwise mean of the weights and buffers of all classifiers that fit `spec`; None if fewer than 2 fit.

    A classifier fits if architecture, input size, channels and the shapes of the weights agree. See `mean_classifier`
    for the head and the pixels.
    """
    fitting = (each for each in classifiers if _same_features(each.spec, each.network, spec))
    return mean_classifier(((each.spec, feature_tensors(each)) for each in fitting), spec)


def mean_classifier(
    parts: Iterable[tuple[ClassifierSpec, Mapping[str, Tensor]]], spec: ClassifierSpec
) -> ImageClassifier | None:
    """Classifier of `spec` whose features have the elementwise mean of the tensors of all parts; None if fewer than 2.

    The mean and standard deviation for pixels are averaged as well. The class head of the result is zero, because the
    heads of different classifiers stand for different classes.

    Args:
        parts: specification and tensors of each classifier, see `feature_tensors`.
        spec: specification of the result, except the mean and standard deviation for pixels.
    """
    specs: list[ClassifierSpec] = []
    sums: dict[str, Tensor] = {}
    for own, tensors in parts:
        specs.append(own)
        for name, tensor in tensors.items():
            sums[name] = sums[name].add_(tensor) if name in sums else tensor.clone()
    if len(specs) < 2:
        return None
    pixels = {
        name: tuple(sum(values) / len(specs) for values in zip(*(getattr(spec, name) for spec in specs), strict=True))
        for name in ("mean", "std")
    }
    average = build_classifier(spec.model_copy(update=pixels), torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        for name, target in average.network.state_dict().items():
            if name in sums:
                target.copy_(sums[name] / len(specs))
        average.network.head.weight.zero_()
        average.network.head.bias.zero_()
    return average


def feature_tensors(classifier: ImageClassifier) -> dict[str, Tensor]:
    """Weights and buffers of a classifier without its head by name, float64 on the CPU."""
    # Integer buffers (numbers of batches) are averaged as floats; copying casts them back.
    tensors = distinct_tensors(classifier.network)
    return {name: tensor.detach().cpu().double() for name, tensor in tensors.items() if not name.startswith(HEAD)}


def distinct_tensors(network: Network) -> dict[str, Tensor]:
    """Weights and buffers of a network by name; a tensor that modules share has only its first name."""
    first: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        first.setdefault(id(tensor), (name, tensor))
    return dict(first.values())


def check_same_features(
    zoo: Zoo, spec: ClassifierSpec | None = None, remedy: str = "choose another zoo or method"
) -> None:
    """Check that the weights of all models of a zoo can be joined.

    Args:
        zoo: the models.
        spec: classifier that the joined weights must fit; None: the first model.
        remedy: remedy of the error.

    Raises:
        UsageError: the zoo has fewer than two models, or a model differs from `spec` in its input or in the shapes of
            its weights.
    """
    if len(zoo) < 2:
        raise UsageError(zoo.folder, f"has {len(zoo)} model, and a fusion needs two or more", remedy)
    expected = zoo.contracts[0].spec if spec is None else spec
    named = repr(zoo.contracts[0].name) if spec is None else "the meta-model"
    checked = {_without_pixels(expected)}
    for contract in zoo:
        key = _without_pixels(contract.spec)
        if key in checked:
            continue
        if not _same_features(contract.spec, network_without_weights(contract.spec), expected):
            problem = f"its input or the shapes of its weights differ from those of {named}"
            raise UsageError(f"model {contract.name!r}", problem, remedy)
        checked.add(key)


def _without_pixels(spec: ClassifierSpec) -> str:
    return spec.model_dump_json(exclude={"mean", "std"})


def _same_features(own: ClassifierSpec, network: Network, spec: ClassifierSpec) -> bool:
    names = ("architecture", "input_size", "channels")
    if any(getattr(own, name) != getattr(spec, name) for name in names):
        return False
    return _shapes(network) == _shapes(network_without_weights(spec))


def _shapes(network: Network) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items() if not name.startswith(HEAD)}
