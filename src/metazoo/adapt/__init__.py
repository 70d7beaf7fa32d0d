"""Few-shot classifiers from meta-models: adapt, predict, save, load."""

from metazoo.adapt.few_shot import FewShotClassifier, FewShotModule, Prediction, adapt
from metazoo.adapt.meta_model import MetaModel
from metazoo.adapt.support import SupportSet, load_support_folder

__all__ = [
    "FewShotClassifier",
    "FewShotModule",
    "MetaModel",
    "Prediction",
    "SupportSet",
    "adapt",
    "load_support_folder",
]
