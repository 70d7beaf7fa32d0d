"""Zoos of pre-trained image classifiers: their contracts, folder, building and checking, and their frozen teachers."""

from metazoo.choices import Permission
from metazoo.renamed import former_names
from metazoo.zoo.building.build import build_zoo
from metazoo.zoo.building.classifier_training import train_classifier, with_pixel_statistics
from metazoo.zoo.checking.verify import Finding, verify_zoo
from metazoo.zoo.class_map import ClassIdentity, identify_classes
from metazoo.zoo.contract import ModelContract, Provenance, TrainingRecord
from metazoo.zoo.importing.add import Addition, Preview, add_folder, add_model, preview_model
from metazoo.zoo.importing.model_description import ModelDescription
from metazoo.zoo.query_teacher import QueryTeacher
from metazoo.zoo.teachers import Teacher, WhiteBoxTeacher
from metazoo.zoo.training_config import TrainingConfig
from metazoo.zoo.zoo_folder import Zoo, ZooReference, zoo_with_models

__all__ = [
    "Addition",
    "ClassIdentity",
    "Finding",
    "ModelContract",
    "ModelDescription",
    "Permission",
    "Preview",
    "Provenance",
    "QueryTeacher",
    "Teacher",
    "TrainingConfig",
    "TrainingRecord",
    "WhiteBoxTeacher",
    "Zoo",
    "ZooReference",
    "add_folder",
    "add_model",
    "build_zoo",
    "identify_classes",
    "preview_model",
    "train_classifier",
    "verify_zoo",
    "with_pixel_statistics",
    "zoo_with_models",
]

__getattr__ = former_names(__name__, "metazoo.report.zoo_tables")
