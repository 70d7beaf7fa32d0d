"""Averages of weights, the simplest fusion of models."""

from collections.abc import Iterable

import torch
from torch import Tensor

from metazoo.models import ClassifierSpec, ImageClassifier, Network, build_classifier, network_without_weights


def average_parameters(classifiers: Iterable[ImageClassifier], spec: ClassifierSpec) -> ImageClassifier | None:
    """Elementwise mean of the weights and buffers of all classifiers that fit `spec`; None if fewer than 2 fit.

    A classifier fits if architecture, input size, channels and the shapes of the weights agree. The mean and standard
    deviation for pixels are averaged as well. The class head of the result is zero, because the heads of different
    classifiers stand for different classes.
    """
    specs: list[ClassifierSpec] = []
    sums: dict[str, Tensor] = {}
    for classifier in classifiers:
        if _same_features(classifier, spec):
            specs.append(classifier.spec)
            for name, tensor in classifier.network.state_dict().items():
                if not name.startswith("head."):
                    # Integer buffers (numbers of batches) are averaged as floats; copying casts them back.
                    own = tensor.cpu().double()
                    sums[name] = sums[name].add_(own) if name in sums else own.clone()
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


def _same_features(classifier: ImageClassifier, spec: ClassifierSpec) -> bool:
    names = ("architecture", "input_size", "channels")
    if any(getattr(classifier.spec, name) != getattr(spec, name) for name in names):
        return False
    return _shapes(classifier.network) == _shapes(network_without_weights(spec))


def _shapes(network: Network) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items() if not name.startswith("head.")}
