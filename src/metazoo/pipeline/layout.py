"""File names of a run folder. No other module spells one."""

CONFIG, DESCRIPTION = "config.yaml", "run.json"
METRICS = "metrics.jsonl"
BANK = "bank"
HEALTH = "recovery.json"
TRUST, SKILL = "taskspace/trust.json", "taskspace/skill.safetensors"
DOMAINS = "taskspace/domains.json"
CLASSES, CONFLICTS = "taskspace/classes.json", "taskspace/conflicts.json"
PROBE = "taskspace/probe.safetensors"
EMBEDDINGS = "taskspace/fisher.safetensors"
DISTANCE = "taskspace/distance.safetensors"
GROUPING = "taskspace/groups.json"
META_MODEL = "meta-model"
FINISHED = f"{META_MODEL}/bundle.json", f"{META_MODEL}/meta-model.json"
"""A finished run has the first of these; one of version 0.1 has the second."""
REPORT = "report.html"


def sheet_of(model: str) -> str:
    """File name of the contact sheet of a model."""
    return f"recovered/{model}.png"
