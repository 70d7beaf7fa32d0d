"""The stage that says which models to doubt, and what a run makes of it; see `metazoo.taskspace.trust`."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from metazoo.bank import ResidentBanks
from metazoo.methods.workspace import Workspace
from metazoo.run.folder import RunFolder
from metazoo.run.progress import message
from metazoo.run.wording import some_of
from metazoo.taskspace import skill_matrix, trust_of
from metazoo.zoo import Zoo

TRUST, SKILL = "taskspace/trust.json", "taskspace/skill.safetensors"
_STEEPNESS, _LEAST_WEIGHT = 8, 1e-6


class TrustRecipe(BaseModel):
    """What is made of doubtful models.

    `keep` says which they are and does nothing else. `weigh` gives every model a weight of (score / threshold)^8, at
    most 1, in the draw of teachers and in what the meta-model is asked to reproduce. `drop` goes on as if the zoo did
    not have those below the threshold.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mode: Literal["keep", "weigh", "drop"] = "keep"
    threshold: float = Field(default=0.5, gt=0, le=1, description="a model of a lower score is doubtful")
    images_per_class: int = Field(default=30, ge=2, description="of a model that others are asked about, at most")
    partners: int = Field(default=24, ge=1, description="models that each model is judged by, at most")


def judge_models(workspace: Workspace, banks: ResidentBanks, recipe: TrustRecipe, side: int) -> dict[str, Any]:
    """Score every model on recovered images of `side` pixels, once, and warn of doubtful ones; the content of TRUST."""
    folder, zoo, compute = workspace.folder, workspace.zoo, workspace.compute
    if not folder.has(TRUST):
        names = [contract.name for contract in zoo]
        teachers = zoo.teachers_in_turn(compute.device)

        def features_of(index: int) -> Callable[[Tensor], Tensor]:
            teacher = teachers[index]

            def features(images: Tensor) -> Tensor:
                with compute.mixed():
                    return teacher.features(images).float()

            return features

        with workspace.progress_of("trust", len(names)) as advance:
            skill = skill_matrix(
                banks.at(side, names),
                features_of,
                images_per_class=recipe.images_per_class,
                partners=recipe.partners,
                seed=workspace.seed,
                threads=workspace.worker_threads(),
                after_model=advance,
            )
        folder.write_tensors(SKILL, {"skill": skill})
        trust = trust_of(skill, [contract.domain for contract in zoo])
        columns = {"score": trust.score, "claims": trust.claims, "service": trust.service}
        rows = [
            {"model": name, **{key: _number(values[index]) for key, values in columns.items()}}
            for index, name in enumerate(names)
        ]
        doubtful = [row["model"] for row in rows if row["score"] < recipe.threshold]
        warning = _warning(rows, recipe)
        if warning is not None:
            message(f"warning: {warning}")
        workspace.metrics.truncate_after("trust", 0)  # of a process killed before its next line
        workspace.metrics.append(
            stage="trust", step=1, mode=recipe.mode, doubtful=len(doubtful), scores=trust.score.tolist()
        )
        record = {"format_version": 1, "mode": recipe.mode, "threshold": recipe.threshold, "models": rows}
        folder.write_json(TRUST, {**record, "doubtful": doubtful, "warning": warning})
    return folder.read_json(TRUST)


def kept_models(folder: RunFolder, zoo: Zoo) -> Zoo:
    """The models of a run's zoo that it learns from: all, but for those that it has dropped."""
    record = folder.read_json(TRUST) if folder.has(TRUST) else {"mode": "keep"}
    if record["mode"] != "drop":
        return zoo
    return Zoo(zoo.folder, [contract for contract in zoo if contract.name not in record["doubtful"]])


def skill_of(workspace: Workspace) -> Tensor:
    """`skill_matrix` of the models of the workspace's zoo, of a run that has judged them, be some dropped or not."""
    judged = [row["model"] for row in workspace.folder.read_json(TRUST)["models"]]
    places = [judged.index(contract.name) for contract in workspace.zoo]
    return workspace.folder.read_tensors(SKILL)["skill"][places][:, places]


def apply_trust(
    workspace: Workspace, banks: ResidentBanks, recipe: TrustRecipe, side: int
) -> tuple[Workspace, Tensor | None]:
    """Judge the models, and act by the recipe.

    Returns:
        The workspace with the zoo that the run goes on with, and a weight in (0, 1] for each of its models, float32;
        None if all count alike.
    """
    record = judge_models(workspace, banks, recipe, side)
    kept = dataclasses.replace(workspace, zoo=kept_models(workspace.folder, workspace.zoo))
    scores = torch.tensor([row["score"] for row in record["models"]], dtype=torch.float64)
    if recipe.mode != "weigh" or bool((scores >= recipe.threshold).all()):
        return kept, None
    return kept, (scores / recipe.threshold).clamp(max=1).pow(_STEEPNESS).clamp(min=_LEAST_WEIGHT).float()


def _warning(rows: Sequence[dict[str, Any]], recipe: TrustRecipe) -> str | None:
    """A sentence on the doubtful models, the worst first; None if there are none."""
    doubtful = sorted((row["score"], row["model"]) for row in rows if row["score"] < recipe.threshold)
    if not doubtful:
        return None
    named = some_of([f"{name} ({score:.2f})" for score, name in doubtful])
    remedy = {
        "keep": "one of another domain or kind, or that was recovered badly, is among them too: look before you set "
        "trust.mode to drop, or remove them from the zoo",
        "weigh": "they count for less",
        "drop": "they are left out",
    }[recipe.mode]
    return (
        f"{len(doubtful)} of {len(rows)} models do not agree with the others (trust below {recipe.threshold:g}): "
        f"{named}; {remedy}"
    )


def _number(value: Tensor) -> float | None:
    return round(float(value), 6) if bool(value.isfinite()) else None
