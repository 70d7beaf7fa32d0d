"""Network architectures and image classifiers made of them."""

from metazoo.models.adapters import AdapterSpec
from metazoo.models.architectures import (
    LARGEST_WIDTH,
    ONNX,
    ArchitectureName,
    architectures,
    build_network,
    check_registered,
    check_width,
    default_arguments,
    is_built_in,
    register_architecture,
    takes_width,
)
from metazoo.models.classifier import ClassifierSpec, ImageClassifier, build_classifier, square_images
from metazoo.models.generator import Generator
from metazoo.models.library import LIBRARIES, LibraryNetwork, is_library_name
from metazoo.models.network import Argument, Network, import_library
from metazoo.models.operator_graph import GraphConstant, GraphNode, OperatorGraph
from metazoo.models.transformers_networks import TRANSFORMERS_CLASSES, arguments_from_config
from metazoo.models.without_weights import network_with_weights, network_without_weights
from metazoo.models.wrapped import WrappedNetwork

__all__ = [
    "LARGEST_WIDTH",
    "LIBRARIES",
    "ONNX",
    "TRANSFORMERS_CLASSES",
    "AdapterSpec",
    "ArchitectureName",
    "Argument",
    "ClassifierSpec",
    "Generator",
    "GraphConstant",
    "GraphNode",
    "ImageClassifier",
    "LibraryNetwork",
    "Network",
    "OperatorGraph",
    "WrappedNetwork",
    "architectures",
    "arguments_from_config",
    "build_classifier",
    "build_network",
    "check_registered",
    "check_width",
    "default_arguments",
    "import_library",
    "is_built_in",
    "is_library_name",
    "network_with_weights",
    "network_without_weights",
    "register_architecture",
    "square_images",
    "takes_width",
]
