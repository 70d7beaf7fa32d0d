"""The stage that says which models to doubt, and what a run makes of it; see `metazoo.audit.trust`."""

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


@dataclass(frozen=True)
class _Judge:
    """A unit of work: one model, those whose recovered images it is shown, and the one whose images all are shown."""

    zoo: ZooReference
    bank: Path
    subjects: tuple[str, ...]
    common: str
    side: int
    images_per_class: int
    compute: Compute


def _judge(unit: _Judge) -> tuple[list[float], Tensor]:
    """The skill of the judge on the images of each subject, and its outputs for the common images."""
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
    """How well each model's features separate the classes of others' images, and groups of copies; see `trust_of`."""
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
    places = {contract.name: index for index, contract in enumerate(zoo)}
    same_weights = [[places[name] for name in names] for names in duplicate_models(zoo)]
    return skill, duplicate_groups(outputs, same_weights)


def judge_models(workspace: Workspace, banks: ResidentBanks, config: TrustConfig, side: int) -> dict[str, Any]:
    """Score every model on recovered images of `side` pixels, once, and warn of doubtful ones; the content of TRUST."""
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
        workspace.metrics.truncate_after("trust", 0)  # of a process killed before its next line
        workspace.metrics.append(
            stage="trust", step=1, mode=config.mode, doubtful=len(doubtful), scores=trust.score.tolist()
        )
        record = {"format_version": 1, "mode": config.mode, "threshold": config.threshold, "models": rows}
        folder.write_json(TRUST, {**record, "doubtful": doubtful, "duplicates": copies, "warning": warning})
    return folder.read_json(TRUST)


def kept_models(folder: RunFolder, zoo: Zoo) -> Zoo:
    """The models of a run's zoo that it learns from: all, but for those that it has dropped."""
    record = folder.read_json(TRUST) if folder.has(TRUST) else {"mode": "keep"}
    if record["mode"] != "drop":
        return zoo
    return Zoo(zoo.folder, [contract for contract in zoo if contract.name not in record["doubtful"]])


def skill_of(workspace: Workspace) -> Tensor:
    """The skills (see `trust_of`) of the models of a workspace whose run has judged them, be some dropped or not."""
    judged = [row["model"] for row in workspace.folder.read_json(TRUST)["models"]]
    places = [judged.index(contract.name) for contract in workspace.zoo]
    return workspace.folder.read_tensors(SKILL)["skill"][places][:, places]


def apply_trust(
    workspace: Workspace, banks: ResidentBanks, config: TrustConfig, side: int
) -> tuple[Workspace, Tensor | None]:
    """Judge the models, and act by the config.

    Returns:
        The workspace with the zoo that the run continues with, and a weight in (0, 1] for each of its models, float32;
        None if all count alike. Copies of one model share its weight.
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
    """A sentence on the doubtful models, the worst first; None if there are none."""
    doubtful = sorted((row["score"], row["model"]) for row in rows if row["score"] < config.threshold)
    if not doubtful:
        return None
    named = some_of([f"{name} ({score:.2f})" for score, name in doubtful])
    remedy = {
        "keep": "one of another domain or kind, or that was recovered badly, is among them too: look before you set "
        "trust.mode to drop, or remove them from the zoo",
        "weigh": "they count for less",
        "drop": "they are left out",
    }[config.mode]
    return (
        f"{len(doubtful)} of {len(rows)} models do not agree with the others (trust below {config.threshold:g}): "
        f"{named}; {remedy}"
    )


def _copies_warning(groups: Sequence[Sequence[str]], config: TrustConfig) -> str | None:
    """A sentence on models that are copies of one another; None if there are none."""
    if not groups:
        return None
    named = ", and ".join(some_of(list(names)) for names in groups)
    remedy = (
        "they weigh as one model"
        if config.mode == "weigh"
        else "each copy counts: remove all but one with `metazoo zoo remove`, or set trust.mode to weigh"
    )
    return f"some models are copies of one another: {named}; {remedy}"


def _number(value: Tensor) -> float | None:
    return round(float(value), 6) if bool(value.isfinite()) else None


class DomainConfig(BaseModel):
    """What is made of a zoo of several kinds of images.

    The meta-model goes on to learn from every kind alone, and becomes a specialist of each; see
    `metazoo.features.domain_router`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    by: Literal["contract", "nothing"] = Field(
        default="contract", description="nothing: all images are taken to be of one kind"
    )
    alike: float = Field(
        default=0.8, gt=0, description="domains whose models do so well on each other's images are of one kind"
    )
    kinds: int = Field(default=16, ge=2, le=256, description="of a zoo of more, all are taken to be one")
    specialise: float = Field(default=0.5, gt=0, description="share of learning.steps, again for every kind")
    learning_rate: float = Field(default=0.4, gt=0, description="share of learning.learning_rate in these steps")
    images: int = Field(default=2000, ge=2, description="recovered images of a kind that it is told by, at most")


def most_merged_domains(contracts: Iterable[ModelContract], config: DomainConfig) -> int:
    """How many kinds `find_merged_domains` can find at most; 1 if all images will be taken to be of one."""
    named = Counter(contract.domain for contract in contracts)
    several = sum(count > 1 for count in named.values())
    return 1 if config.by == "nothing" or several < 2 else min(several, config.kinds)


def specialised(learning: LearningConfig, config: DomainConfig) -> LearningConfig:
    """How a specialist of a kind goes on to learn."""
    changes = {
        "steps": max(1, round(learning.steps * config.specialise)),
        "learning_rate": learning.learning_rate * config.learning_rate,
    }
    return learning.model_copy(update=changes)


def find_merged_domains(workspace: Workspace, config: DomainConfig) -> dict[str, list[int]]:
    """The models (their places in the zoo) of every kind of images, by its name; none, or two and more.

    A single model of its kind is in none of them: what one model sees is too little to read a kind by. The models must
    have judged each other; of a run that did so before this was kept, all images are of one kind.
    """
    folder, domains = workspace.folder, [contract.domain for contract in workspace.zoo]
    if most_merged_domains(workspace.zoo, config) < 2 or not folder.has(SKILL):
        return {}
    if not folder.has(DOMAINS):
        found = merge_domains(skill_of(workspace), domains, config.alike)
        folder.write_json(DOMAINS, {"format_version": 1, "kinds": found})
    found = folder.read_json(DOMAINS)["kinds"]
    places = [[index for index, domain in enumerate(domains) if domain in kind] for kind in found]
    kinds = [(kind, own) for kind, own in zip(found, places, strict=True) if len(own) > 1]
    if len(kinds) > config.kinds:
        message(
            f"note: the zoo is of {len(kinds)} kinds of images, so all are taken to be one; name like domains alike in "
            "the contracts, or raise domains.kinds"
        )
    if not 2 <= len(kinds) <= config.kinds:
        return {}
    named: dict[str, list[int]] = {}
    for kind, own in kinds:
        name = JOINT.join(kind)
        while name in named:  # a domain can be called by two others
            name += "'"
        named[name] = own
    return named
