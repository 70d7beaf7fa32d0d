"""Model inversion: images recovered from frozen teachers, and the stage that fills a bank with them."""

from metazoo.recover.budget import RecoveryBudget
from metazoo.recover.health import TeacherHealth, health_rows, health_table, health_warning
from metazoo.recover.pixels import Health, RecoveredImages, RecoveryRecipe, recover_images
from metazoo.recover.sheet import contact_sheet
from metazoo.recover.stage import RecoveryPlan, plan_recovery, recover_zoo

__all__ = [
    "Health",
    "RecoveredImages",
    "RecoveryBudget",
    "RecoveryPlan",
    "RecoveryRecipe",
    "TeacherHealth",
    "contact_sheet",
    "health_rows",
    "health_table",
    "health_warning",
    "plan_recovery",
    "recover_images",
    "recover_zoo",
]
