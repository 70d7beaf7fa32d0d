"""Model inversion: images recovered from frozen teachers, and the stage that fills a bank with them."""

from metazoo.recover.budget import RecoveryBudget
from metazoo.recover.generated import GeneratorConfig, recover_through_generator
from metazoo.recover.health import TeacherHealth, health_rows, health_table, health_warning
from metazoo.recover.inversion import Health, RecoveredImages
from metazoo.recover.pixels import RecoveryConfig, recover_images
from metazoo.recover.units import Request, recover_buckets, recover_requests
from metazoo.recover.zoo_recovery import RecoveryPlan, guides_for, plan_recovery, recover_zoo
from metazoo.renamed import former_names

__all__ = [
    "GeneratorConfig",
    "Health",
    "RecoveredImages",
    "RecoveryBudget",
    "RecoveryConfig",
    "RecoveryPlan",
    "Request",
    "TeacherHealth",
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

__getattr__ = former_names(__name__, "metazoo.bank.contact_sheet")
