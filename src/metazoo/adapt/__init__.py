"""Few-shot classifiers from meta-models: adapt, predict, save, load."""

from metazoo.adapt.adaptation import adapt
from metazoo.adapt.few_shot import FewShotClassifier
from metazoo.adapt.few_shot_module import FewShotModule
from metazoo.adapt.meta_model import MetaModel
from metazoo.adapt.prediction import Neighbour, Prediction
from metazoo.adapt.support import SupportSet, load_support_folder

__all__ = [
    "FewShotClassifier",
    "FewShotModule",
    "MetaModel",
    "Neighbour",
    "Prediction",
    "SupportSet",
    "adapt",
    "load_support_folder",
]
