"""Model inversion: images recovered from frozen teachers, and the stage that fills a bank with them."""

from metazoo.recover.budget import RecoveryBudget
from metazoo.recover.generated import GeneratorRecipe, recover_through_generator
from metazoo.recover.health import TeacherHealth, health_rows, health_table, health_warning
from metazoo.recover.inversion import Health, RecoveredImages
from metazoo.recover.pixels import RecoveryRecipe, recover_images
from metazoo.recover.sheet import contact_sheet
from metazoo.recover.stage import RecoveryPlan, guides_for, plan_recovery, recover_zoo
from metazoo.recover.units import Request, recover_buckets, recover_requests

__all__ = [
    "GeneratorRecipe",
    "Health",
    "RecoveredImages",
    "RecoveryBudget",
    "RecoveryPlan",
    "RecoveryRecipe",
    "Request",
    "TeacherHealth",
    "contact_sheet",
    "guides_for",
    "health_rows",
    "health_table",
    "health_warning",
    "plan_recovery",
    "recover_buckets",
    "recover_images",
    "recover_requests",
    "recover_through_generator",
    "recover_zoo",
]
