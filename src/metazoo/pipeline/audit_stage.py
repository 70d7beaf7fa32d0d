"""The stages of trust and of merged domains; see `metazoo.audit.trust` and `metazoo.audit.domains`."""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from metazoo.audit import duplicate_groups, merge_domains, partners_of, skill_on, trust_of
from metazoo.bank import Bank, ResidentBank, ResidentBanks
from metazoo.data.images import evenly_of_each
from metazoo.execution.compute import Compute
from metazoo.execution.process_memory import give_back_memory
from metazoo.execution.progress import message
from metazoo.execution.signals import check_stop
from metazoo.features.domain_router import JOINT
from metazoo.learn.learning_config import LearningConfig
from metazoo.pipeline.layout import DOMAINS, SKILL, TRUST
from metazoo.pipeline.workspace import Workspace
from metazoo.storage.run_folder import RunFolder
from metazoo.text import some_of
from metazoo.zoo import ModelContract, Zoo, ZooReference
from metazoo.zoo.checking.duplicates import duplicate_models

_COMPARED_IMAGES = 16
_STEEPNESS, _LEAST_WEIGHT = 8, 1e-6


class TrustConfig(BaseModel):
    """Treatment of doubtful models.

    `keep` only reports them. `weigh` gives every model a weight of (score / threshold)^8, at most 1, in the draw of
    teachers and in the losses of the meta-model. `drop` continues without the models below the threshold.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mode: Literal["keep", "weigh", "drop"] = "keep"
    threshold: float = Field(default=0.5, gt=0, le=1, description="score below which a model is doubtful")
    images_per_class: int = Field(default=30, ge=2, description="most recovered images of a class that others judge")
    partners: int = Field(default=24, ge=1, description="most models that judge a model")


@dataclass(frozen=True)
class _Judge:
    """A unit of work: one model, the models whose images it judges, and the one whose images all models see."""

    zoo: ZooReference
    bank: Path
    subjects: tuple[str, ...]
    common: str
    side: int
    images_per_class: int
    compute: Compute


def _judge(unit: _Judge) -> tuple[list[float], Tensor]:
    """Skill of the judge on the images of each subject, and its outputs for the common images."""
    (name, _), device = unit.zoo.models[0], unit.compute.device
    teacher, bank = unit.zoo.open().teacher(name).to(device), Bank.open(unit.bank, {*unit.subjects, unit.common})

    def features(images: Tensor) -> Tensor:
        with unit.compute.mixed():
            return teacher.features(images).float()

    found = []
    for subject in unit.subjects:
        check_stop()
        shown = ResidentBank.load(bank, [subject], unit.side).to(device)
        found.append(skill_on(features, shown, unit.images_per_class))
    common = ResidentBank.load(bank, [unit.common], unit.side).to(device)
    with torch.no_grad():
        outputs = teacher(common.pixels(evenly_of_each(common.labels, _COMPARED_IMAGES))).float().cpu()
    give_back_memory(torch.device(device))
    return found, outputs


def _skills(workspace: Workspace, bank: Bank, config: TrustConfig, side: int) -> tuple[Tensor, list[list[int]]]:
    """Skills of the models on the images of others, [N, N], and groups of copies; see `trust_of`."""
    zoo, count, folder = workspace.zoo, len(workspace.zoo), bank.folder.absolute()
    partners = partners_of(count, config.partners, workspace.seed)
    units = [
        _Judge(
            zoo.reference(contract),
            folder,
            tuple(zoo.contracts[subject].name for subject in subjects),
            zoo.contracts[0].name,
            side,
            config.images_per_class,
            workspace.compute,
        )
        for contract, subjects in zip(zoo, partners, strict=True)
    ]
    skill, outputs = torch.full((count, count), float("nan"), dtype=torch.float64), [torch.zeros(0, 0)] * count
    results = workspace.executor.map(
        _judge,
        units,
        name_of=lambda unit: f"the judgement of model {unit.zoo.models[0][0]!r}",
        threads=torch.get_num_threads(),
        short=True,
        check=workspace.check,
    )
    with workspace.progress_of("trust", count) as advance, contextlib.closing(results):
        for judge, (found, outputs[judge]) in results:
            skill[partners[judge], judge] = torch.tensor(found, dtype=torch.float64)
            advance()
    indices = {contract.name: index for index, contract in enumerate(zoo)}
    same_weights = [[indices[name] for name in names] for names in duplicate_models(zoo)]
    return skill, duplicate_groups(outputs, same_weights)


def judge_models(workspace: Workspace, banks: ResidentBanks, config: TrustConfig, side: int) -> dict[str, Any]:
    """Content of the trust record; the models are scored once, on recovered images of `side` pixels."""
    folder, zoo = workspace.folder, workspace.zoo
    if not folder.has(TRUST):
        names = [contract.name for contract in zoo]
        skill, duplicates = _skills(workspace, banks.bank, config, side)
        folder.write_tensors(SKILL, {"skill": skill})
        trust = trust_of(skill, [contract.domain for contract in zoo], duplicates)
        columns = {"score": trust.score, "claims": trust.recognised_by_others, "service": trust.recognises_others}
        rows = [
            {"model": name, **{key: _number(values[index]) for key, values in columns.items()}}
            for index, name in enumerate(names)
        ]
        doubtful = [row["model"] for row in rows if row["score"] < config.threshold]
        copies = [[names[index] for index in group] for group in duplicates]
        warning = ". ".join(filter(None, (_warning(rows, config), _copies_warning(copies, config)))) or None
        if warning is not None:
            message(f"warning: {warning}")
        workspace.metrics.truncate_after("trust", 0)  # a killed process may have left this line
        workspace.metrics.append(
            stage="trust", step=1, mode=config.mode, doubtful=len(doubtful), scores=trust.score.tolist()
        )
        record = {"format_version": 1, "mode": config.mode, "threshold": config.threshold, "models": rows}
        folder.write_json(TRUST, {**record, "doubtful": doubtful, "duplicates": copies, "warning": warning})
    return folder.read_json(TRUST)


def kept_models(folder: RunFolder, zoo: Zoo) -> Zoo:
    """Models of the zoo that the run has not dropped."""
    record = folder.read_json(TRUST) if folder.has(TRUST) else {"mode": "keep"}
    if record["mode"] != "drop":
        return zoo
    return Zoo(zoo.folder, [contract for contract in zoo if contract.name not in record["doubtful"]])


def skill_of(workspace: Workspace) -> Tensor:
    """Recorded skills of the models of a workspace, [N, N]; see `trust_of`."""
    judged = [row["model"] for row in workspace.folder.read_json(TRUST)["models"]]
    indices = [judged.index(contract.name) for contract in workspace.zoo]
    return workspace.folder.read_tensors(SKILL)["skill"][indices][:, indices]


def apply_trust(
    workspace: Workspace, banks: ResidentBanks, config: TrustConfig, side: int
) -> tuple[Workspace, Tensor | None]:
    """Judge the models, then keep, weigh or drop the doubtful ones.

    Returns:
        Workspace with the models that the run continues with, and their weights in (0, 1], float32 [models]; None if
        all count alike. Copies of one model share its weight.
    """
    record = judge_models(workspace, banks, config, side)
    kept = dataclasses.replace(workspace, zoo=kept_models(workspace.folder, workspace.zoo))
    scores = torch.tensor([row["score"] for row in record["models"]], dtype=torch.float64)
    duplicates = record.get("duplicates", [])  # unknown in older runs
    if config.mode != "weigh" or (bool((scores >= config.threshold).all()) and not duplicates):
        return kept, None
    weights = (scores / config.threshold).clamp(max=1).pow(_STEEPNESS).clamp(min=_LEAST_WEIGHT)
    copies = {name: len(group) for group in duplicates for name in group}
    return kept, (weights / torch.tensor([copies.get(row["model"], 1) for row in record["models"]])).float()


def _warning(rows: Sequence[dict[str, Any]], config: TrustConfig) -> str | None:
    """Warning of the doubtful models, the worst first; None if there are none."""
    doubtful = sorted((row["score"], row["model"]) for row in rows if row["score"] < config.threshold)
    if not doubtful:
        return None
    named = some_of([f"{name} ({score:.2f})" for score, name in doubtful])
    remedy = {
        "keep": "models of another domain or architecture, or with badly recovered images, score low too: check them "
        "before you set trust.mode to drop or remove them from the zoo",
        "weigh": "they weigh less",
        "drop": "they are dropped",
    }[config.mode]
    return (
        f"{len(doubtful)} of {len(rows)} models do not agree with the others (trust below {config.threshold:g}): "
        f"{named}; {remedy}"
    )


def _copies_warning(groups: Sequence[Sequence[str]], config: TrustConfig) -> str | None:
    """Warning of models that are copies of one another; None if there are none."""
    if not groups:
        return None
    named = ", and ".join(some_of(list(names)) for names in groups)
    remedy = (
        "the copies of a model weigh as one model"
        if config.mode == "weigh"
        else "each copy counts: remove all except one with `metazoo zoo remove`, or set trust.mode to weigh"
    )
    return f"some models are copies of one another: {named}; {remedy}"


def _number(value: Tensor) -> float | None:
    return round(float(value), 6) if bool(value.isfinite()) else None


class DomainConfig(BaseModel):
    """Treatment of a zoo of several domains.

    Domains whose models recognise each other's images are merged; the meta-model then continues to learn from each
    merged domain alone, which gives one model per domain. See `metazoo.features.domain_router`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    by: Literal["contract", "nothing"] = Field(
        default="contract", description="contract: the domains named in the contracts; nothing: one domain"
    )
    alike: float = Field(
        default=0.8,
        gt=0,
        description="least similarity of domains that are merged: skill on each other's images, relative to own ones",
    )
    kinds: int = Field(default=16, ge=2, le=256, description="most merged domains; a zoo of more counts as one domain")
    specialise: float = Field(
        default=0.5, gt=0, description="further steps for each domain, as a share of learning.steps"
    )
    learning_rate: float = Field(
        default=0.4, gt=0, description="learning rate of these steps, as a share of learning.learning_rate"
    )
    images: int = Field(default=2000, ge=2, description="most recovered images that a domain is recognised by")


def most_merged_domains(contracts: Iterable[ModelContract], config: DomainConfig) -> int:
    """Upper bound of the number of domains that `find_merged_domains` finds; 1 if all images count as one domain."""
    named = Counter(contract.domain for contract in contracts)
    several = sum(count > 1 for count in named.values())
    return 1 if config.by == "nothing" or several < 2 else min(several, config.kinds)


def per_domain_learning(learning: LearningConfig, config: DomainConfig) -> LearningConfig:
    """Options of the further learning from one domain."""
    changes = {
        "steps": max(1, round(learning.steps * config.specialise)),
        "learning_rate": learning.learning_rate * config.learning_rate,
    }
    return learning.model_copy(update=changes)


def find_merged_domains(workspace: Workspace, config: DomainConfig) -> dict[str, list[int]]:
    """Indices of the models of each merged domain, by its name; empty if there are fewer than two.

    A domain of a single model is left out, since one model shows too little of it. The models must have judged each
    other; a run without recorded skills has one domain.
    """
    folder, domains = workspace.folder, [contract.domain for contract in workspace.zoo]
    if most_merged_domains(workspace.zoo, config) < 2 or not folder.has(SKILL):
        return {}
    if not folder.has(DOMAINS):
        found = merge_domains(skill_of(workspace), domains, config.alike)
        folder.write_json(DOMAINS, {"format_version": 1, "kinds": found})
    found = folder.read_json(DOMAINS)["kinds"]
    indices = [[index for index, domain in enumerate(domains) if domain in names] for names in found]
    merged = [(names, own) for names, own in zip(found, indices, strict=True) if len(own) > 1]
    if len(merged) > config.kinds:
        message(
            f"note: the zoo has {len(merged)} domains, more than domains.kinds ({config.kinds}), so all count as one; "
            "raise domains.kinds, or give similar domains one name in the contracts"
        )
    if not 2 <= len(merged) <= config.kinds:
        return {}
    named: dict[str, list[int]] = {}
    for names, own in merged:
        name = JOINT.join(names)
        while name in named:  # the name of a domain may be two others joined
            name += "'"
        named[name] = own
    return named
