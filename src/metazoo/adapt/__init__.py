"""The user's few-shot classifier: adapt, predict, save, load."""

from metazoo.adapt.classifier import FewShotClassifier, Prediction, adapt
from metazoo.adapt.meta_model import MetaModel
from metazoo.adapt.support import load_support_folder

__all__ = ["FewShotClassifier", "MetaModel", "Prediction", "adapt", "load_support_folder"]
