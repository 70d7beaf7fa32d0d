"""Zoos of pre-trained image classifiers: their contracts, folder, building and checking, and their frozen teachers."""

from metazoo.zoo.add import Addition, add_folder, add_model
from metazoo.zoo.build import build_zoo
from metazoo.zoo.class_map import ClassIdentity, identify_classes
from metazoo.zoo.contract import ModelContract, Permission, Provenance, TrainingRecord
from metazoo.zoo.description import ModelDescription
from metazoo.zoo.folder import Zoo, zoo_with_models
from metazoo.zoo.overview import GroupRow, ModelRow, group_rows, group_table, model_rows, model_table
from metazoo.zoo.recipe import TrainingRecipe
from metazoo.zoo.teacher import WhiteBoxTeacher
from metazoo.zoo.training import train_classifier, with_pixel_statistics
from metazoo.zoo.verify import Finding, verify_zoo

__all__ = [
    "Addition",
    "ClassIdentity",
    "Finding",
    "GroupRow",
    "ModelContract",
    "ModelDescription",
    "ModelRow",
    "Permission",
    "Provenance",
    "TrainingRecipe",
    "TrainingRecord",
    "WhiteBoxTeacher",
    "Zoo",
    "add_folder",
    "add_model",
    "build_zoo",
    "group_rows",
    "group_table",
    "identify_classes",
    "model_rows",
    "model_table",
    "train_classifier",
    "verify_zoo",
    "with_pixel_statistics",
    "zoo_with_models",
]
