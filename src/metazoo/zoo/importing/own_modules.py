"""Classifiers made of a user's own module."""

import hashlib
import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy

from metazoo.errors import MetazooError, UsageError, ZooError
from metazoo.models import (
    ImageClassifier,
    OperatorGraph,
    WrappedNetwork,
    architectures,
    network_with_weights,
    network_without_weights,
)
from metazoo.models.architectures import ARCHITECTURES
from metazoo.models.wrapped import UnsuitableBodyError, difference, logits_in, output_of
from metazoo.zoo.contract import Provenance
from metazoo.zoo.importing.model_description import ModelDescription
from metazoo.zoo.importing.preparation import does_not_fit, random_images, try_classifier
from metazoo.zoo.importing.tensor_names import match_by_name

_IMAGES = 4
# GPUs may multiply with 10 bits of mantissa, as bfloat16 has 7.
_TOLERANCE, _COARSE_TOLERANCE = 1e-3, 3e-2


def classifier_of(module: nn.Module, given: ModelDescription) -> tuple[ImageClassifier, ModelDescription, Provenance]:
    """Classifier with the weights of a user's module, which does not change.

    Args:
        module: module on any device, of a registered architecture, or a `Network` or `ImageClassifier`.
        given: description of the module.

    Returns:
        The classifier on the CPU, the complete description, and the origin of the weights.

    Raises:
        UsageError: a field is missing or impossible, or no registered architecture, or several, build the module.
        ZooError: the weights do not fit the architecture or are not finite, or the network of the architecture gives
            other outputs than the module.
    """
    graph = None
    if isinstance(module, ImageClassifier):
        module = module.merged() if module.spec.adapter is not None else module
        own = module.spec
        left_out = {"classes", "adapter", "graph"}
        if own.graph is not None:
            graph, left_out = partial(_same, own.graph), {*left_out, "arguments"}
        given = given.over(ModelDescription.model_validate(own.model_dump(exclude=left_out)))
        module = module.network
    while isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        module = module.module
    module = getattr(module, "_orig_mod", module)  # of torch.compile
    subject = f"module of class {type(module).__name__}"
    if any(is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers())):
        raise UsageError(subject, "has lazy parameters without values", "run it on an image first")
    tensors: dict[str, Tensor] = {}
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_quantized:
            raise UsageError(subject, f"state {name!r} is no dense tensor", "give a module with dense tensors only")
        tensors[name] = value.detach().cpu()
    if given.architecture is None:
        given = ModelDescription(architecture=_architecture_of(module, given, subject)).over(given)
    spec = given.spec(subject, graph=graph)
    empty = network_without_weights(spec)
    matched = match_by_name(tensors, empty)
    problem = matched.problem(empty.state_dict())
    if problem is not None:
        raise does_not_fit(subject, spec, problem, "check architecture, arguments, classes and input_size")
    classifier = ImageClassifier(spec, network_with_weights(spec, matched.state)).eval()
    try_classifier(classifier, subject)
    _compare(classifier, module, subject)
    return classifier, given, _provenance(module, given, tensors)


def _same(graph: OperatorGraph, *_shape: int) -> OperatorGraph:
    return graph


def _compare(classifier: ImageClassifier, module: nn.Module, subject: str) -> None:
    """Check that a module gives the logits of the classifier, or their softmax, log-softmax or sigmoid."""
    # Running it could change a buffer, such as a counter.
    copies = {name: tensor.detach().clone() for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    first = next((tensor for tensor in copies.values() if tensor.is_floating_point()), torch.empty(0))
    with torch.no_grad():
        images = classifier.preprocess(random_images(classifier.spec, _IMAGES))
        logits = classifier.network(images)
    run = partial(functional_call, module, copies)
    try:
        outputs = [
            logits_in(output_of(module, images.to(first), run), _IMAGES, classifier.spec.classes).cpu()
            for _ in range(2)
        ]
    except UnsuitableBodyError as error:
        raise ZooError(subject, str(error), "wrap it in a module that returns the logits alone") from error
    except (Exception, SystemExit) as error:  # foreign code raises any error
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ZooError(
            subject, f"cannot be run on {list(images.shape)} ({reason})", "check input_size, channels"
        ) from error
    is_exact = first.device.type == "cpu" and first.dtype in (torch.float32, torch.float64)
    tolerance = _TOLERANCE if is_exact else _COARSE_TOLERANCE
    problem = difference(logits, outputs[0], tolerance)
    if problem is None:
        return
    if difference(logits, outputs[1], tolerance) != problem or not torch.equal(*outputs):
        raise ZooError(subject, "gives other outputs at every call", "remove what is random in evaluation mode")
    raise ZooError(
        subject,
        f"its output {problem} of {classifier.spec.architecture} with the same weights",
        "register a builder of this very network, whose last linear layer gives the logits",
    )


def _architecture_of(module: nn.Module, given: ModelDescription, subject: str) -> str:
    """Name of the only registered architecture that builds modules of the same class, and then of the same shapes."""
    found = [name for name in architectures() if _builds(name, module, given, subject)]
    if len(found) == 1:
        return found[0]
    name = type(module).__name__
    if not found:
        remedy = f"register it, such as metazoo.register_architecture({name.lower()!r}, {name})"
        raise UsageError(subject, "no registered architecture builds it with these classes and input_size", remedy)
    raise UsageError(subject, f"is built by the architectures {', '.join(found)}", "give one as architecture=")


def _builds(architecture: str, module: nn.Module, given: ModelDescription, subject: str) -> bool:
    try:
        builder: Any = ARCHITECTURES.get(architecture)
        while isinstance(builder, partial):
            builder = builder.func
        if inspect.isclass(builder) and builder is not _class_of(module):
            return False
        spec = ModelDescription(architecture=architecture).over(given).spec(subject)
        network = network_without_weights(spec)
    except MetazooError:  # of this architecture, which then is no candidate
        return False
    if _class_of(network) is not _class_of(module):
        return False
    return match_by_name(module.state_dict(), network).fits(network.state_dict())


def _class_of(network: nn.Module) -> type[nn.Module]:
    return type(network.body if isinstance(network, WrappedNetwork) else network)


def _provenance(module: nn.Module, given: ModelDescription, tensors: Mapping[str, Tensor]) -> Provenance:
    sha256 = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha256.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        sha256.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    kind = type(module)
    fields = {key: getattr(given, key) for key in ("revision", "licence", "resize", "crop", "interpolation")}
    return Provenance(
        source=f"module {kind.__module__}.{kind.__qualname__}"[:500], source_sha256=sha256.hexdigest(), **fields
    )
