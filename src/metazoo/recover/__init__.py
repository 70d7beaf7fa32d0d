"""Model inversion: images recovered from frozen teachers into a bank."""

from metazoo.recover.budget import RecoveryBudget
from metazoo.recover.generated import GeneratorCanvas, GeneratorConfig
from metazoo.recover.health import TeacherHealth, health_rows, health_warning
from metazoo.recover.inversion import Canvas, Health, Inversion, RecoveredImages
from metazoo.recover.meta_generator import Adaptation, MetaGenerator, MetaGeneratorConfig
from metazoo.recover.objectives import L2, BatchNormDistance, CrossEntropy, Objective, TeacherOutputs, TotalVariation
from metazoo.recover.pixels import PixelCanvas, RecoveryConfig
from metazoo.recover.units import Request, recover_requests
from metazoo.recover.zoo_recovery import RecoveryPlan, guides_for, plan_recovery, recover_zoo
from metazoo.renamed import former_names

__all__ = [
    "L2",
    "Adaptation",
    "BatchNormDistance",
    "Canvas",
    "CrossEntropy",
    "GeneratorCanvas",
    "GeneratorConfig",
    "Health",
    "Inversion",
    "MetaGenerator",
    "MetaGeneratorConfig",
    "Objective",
    "PixelCanvas",
    "RecoveredImages",
    "RecoveryBudget",
    "RecoveryConfig",
    "RecoveryPlan",
    "Request",
    "TeacherHealth",
    "TeacherOutputs",
    "TotalVariation",
    "guides_for",
    "health_rows",
    "health_warning",
    "plan_recovery",
    "recover_requests",
    "recover_zoo",
]

__getattr__ = former_names(__name__, "metazoo.bank.contact_sheet")
