"""Network architectures and the classifier that wraps them. Knows no other room."""

from metazoo.models.classifier import ClassifierSpec, ImageClassifier, build_classifier
from metazoo.models.generator import Generator
from metazoo.models.library import LIBRARIES, LibraryNetwork, import_library, is_library_name
from metazoo.models.network import Network
from metazoo.models.registry import LARGEST_WIDTH, ArchitectureName, architectures, build_network
from metazoo.models.without_weights import network_with_weights, network_without_weights

__all__ = [
    "LARGEST_WIDTH",
    "LIBRARIES",
    "ArchitectureName",
    "ClassifierSpec",
    "Generator",
    "ImageClassifier",
    "LibraryNetwork",
    "Network",
    "architectures",
    "build_classifier",
    "build_network",
    "import_library",
    "is_library_name",
    "network_with_weights",
    "network_without_weights",
]
