"""Network architectures and the classifier that wraps them. Knows no other room."""

from metazoo.models.classifier import ClassifierSpec, ImageClassifier, build_classifier
from metazoo.models.generator import Generator
from metazoo.models.network import Network
from metazoo.models.registry import LARGEST_WIDTH, ArchitectureName, architectures, build_network
from metazoo.models.without_weights import network_without_weights

__all__ = [
    "LARGEST_WIDTH",
    "ArchitectureName",
    "ClassifierSpec",
    "Generator",
    "ImageClassifier",
    "Network",
    "architectures",
    "build_classifier",
    "build_network",
    "network_without_weights",
]
