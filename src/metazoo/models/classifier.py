"""Image classifiers: preprocessing and network in one module."""

from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor, nn
from torch.nn import functional

from metazoo.models.adapters import AdapterSpec, add_adapters, merged_state
from metazoo.models.architectures import ONNX, build_graph_network, build_network
from metazoo.models.network import Argument, Network
from metazoo.models.operator_graph import OperatorGraph

_LUMA = (0.299, 0.587, 0.114)


class ClassifierSpec(BaseModel):
    """Specification of a classifier, without its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: str
    arguments: dict[str, Argument] = {}
    classes: int = Field(ge=1, le=1_000_000)
    input_size: int = Field(ge=1, le=1024, description="side of the square input in pixels")
    channels: Literal[1, 3] = 3
    mean: tuple[float, ...] = Field(description="channel means to subtract from images in [0, 1]")
    std: tuple[float, ...] = Field(description="channel standard deviations to divide by")
    adapter: AdapterSpec | None = Field(default=None, description="low-rank adapters, not written if None")
    graph: OperatorGraph | None = Field(default=None, description="graph of the architecture onnx, else not written")

    @model_serializer(mode="wrap")
    def _without_absent_parts(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Records and hashes of specifications without these parts stay those of version 0.1.
        record = handler(self)
        return {key: value for key, value in record.items() if key not in ("adapter", "graph") or value is not None}

    @model_validator(mode="after")
    def _check_graph(self) -> "ClassifierSpec":
        if (self.architecture == ONNX) != (self.graph is not None):
            raise ValueError(f"the architecture {ONNX} needs a graph, and no other has one")
        if self.graph is not None and self.arguments != {"graph": self.graph.sha256}:
            raise ValueError("the graph has changed (another SHA-256)")
        return self

    @model_validator(mode="after")
    def _check_normalisation(self) -> "ClassifierSpec":
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std need {self.channels} numbers each")
        if not all(0 < value < float("inf") for value in self.std) or not all(abs(value) < 1e6 for value in self.mean):
            raise ValueError("std must be positive and mean finite")
        return self


class ImageClassifier(nn.Module):
    """Network with its preprocessing, for images [n, 3 or spec.channels, h, w] in [0, 1], of any size.

    All weights belong to `network`.
    """

    def __init__(self, spec: ClassifierSpec, network: Network) -> None:
        super().__init__()
        self.spec = spec
        self.network = network
        self.register_buffer("_mean", torch.tensor(spec.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(spec.std).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("_luma", torch.tensor(_LUMA).view(1, 3, 1, 1), persistent=False)

    def preprocess(self, images: Tensor) -> Tensor:
        """Preprocess images: `square_images`, conversion to grey (luma) or RGB, normalisation by mean and std."""
        images = square_images(images, self.spec.input_size)
        if images.shape[1] == 3 and self.spec.channels == 1:
            images = (images * self._luma).sum(1, keepdim=True)  # pyright: ignore[reportOperatorIssue]
        elif images.shape[1] == 1 and self.spec.channels == 3:
            images = images.expand(-1, 3, -1, -1)
        return (images - self._mean) / self._std  # pyright: ignore[reportOperatorIssue]

    def features(self, images: Tensor) -> Tensor:
        """Features [n, network.feature_size]."""
        return self.network.features(self.preprocess(images))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [n, spec.classes]."""
        return self.network(self.preprocess(images))

    def merged(self) -> "ImageClassifier":
        """Copy with the same outputs but without adapters, whose updates are added to the weights."""
        spec = self.spec.model_copy(update={"adapter": None})
        plain = build_classifier(spec, torch.Generator().manual_seed(0)).train(self.training)
        plain.network.load_state_dict(merged_state(self.network))
        return plain.to(self.network.head.weight.device)


def square_images(images: Tensor, side: int) -> Tensor:
    """Crop the centre square of images and resize it to `side` x `side` pixels, bilinear and antialiased.

    All files, tensors and exported modules are resized by this function. If an odd number of rows or columns is cut
    off, the larger part is cut at the bottom or on the right.

    Args:
        images: uint8, or float in [0, 1], [n, channels, h, w].
        side: height and width of the result in pixels.

    Returns:
        Float in [0, 1], [n, channels, side, side], without intermediate rounding.
    """
    height, width = images.shape[-2:]
    # In an export with dynamic sizes, the recorded operations must not depend on them.
    is_open = any(isinstance(size, torch.SymInt) for size in (height, width))
    if is_open or height != width:
        length = torch.sym_min(height, width)
        for dimension, size in ((-2, height), (-1, width)):
            kept = torch.arange(length, device=images.device) + (size - length) // 2
            images = images.index_select(dimension, kept)
    images = images.float() / 255 if images.dtype == torch.uint8 else images
    if is_open or height != side or width != side:
        images = functional.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
    return images


def build_classifier(spec: ClassifierSpec, generator: torch.Generator | None = None) -> ImageClassifier:
    """Build a classifier with new weights.

    Args:
        spec: specification of the classifier.
        generator: source of the weights; None for torch's global generator.

    Raises:
        UsageError: see `build_network`.
    """
    with torch.random.fork_rng(devices=[], enabled=generator is not None):
        if generator is not None:
            torch.manual_seed(int(torch.randint(0, 2**62, (1,), generator=generator)))
        network = network_of(spec)
    return ImageClassifier(spec, network).to(memory_format=torch.channels_last)


def network_of(spec: ClassifierSpec) -> Network:
    """Build the network of `spec` with its adapters and new weights from torch's global generator.

    Raises:
        UsageError: see `build_network`.
    """
    shape = {"classes": spec.classes, "channels": spec.channels, "input_size": spec.input_size}
    if spec.graph is not None:
        network = build_graph_network(spec.graph, **shape)
    else:
        network = build_network(spec.architecture, **shape, arguments=spec.arguments)
    if spec.adapter is not None:
        add_adapters(network, spec.adapter)
    return network
