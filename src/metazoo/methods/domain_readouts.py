"""The stage that gives the meta-model of a zoo of several domains their readouts; see `metazoo.learn.readouts`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from metazoo.bank import ResidentBank, ResidentBanks
from metazoo.learn.embedders import Embedder, MultiDomainClassifier
from metazoo.learn.readout_fitting import domain_kernel, domain_recogniser
from metazoo.learn.readouts import DomainReadouts
from metazoo.methods.workspace import Workspace
from metazoo.models import ImageClassifier
from metazoo.run.compute import Compute
from metazoo.run.progress import message
from metazoo.zoo import ModelContract

_CHUNK = 256


class ReadoutRecipe(BaseModel):
    """How new tasks read the meta-model's features."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Literal["domain", "nothing"] = Field(
        default="domain",
        description="domains of the models' contracts, if there are two or more; nothing: as they are",
    )
    images: int = Field(default=2000, ge=2, description="recovered images of a domain to fit to, at most")
    domains: int = Field(default=16, ge=2, description="of a zoo of more, tasks read features as they are")


def domains_to_read(zoo: Iterable[ModelContract], recipe: ReadoutRecipe) -> dict[str, list[int]]:
    """The models (their places in the zoo) of each domain that there will be a readout of; none, or two or more."""
    members: dict[str, list[int]] = {}
    for index, contract in enumerate(zoo):
        members.setdefault(contract.domain, []).append(index)
    return members if recipe.by == "domain" and 2 <= len(members) <= recipe.domains else {}


def with_readouts(
    workspace: Workspace,
    banks: ResidentBanks,
    classifier: ImageClassifier,
    recipe: ReadoutRecipe,
    weights: Tensor | None,
) -> ImageClassifier | MultiDomainClassifier:
    """The meta-model with readouts of its zoo's domains; itself, if there are none to make.

    Args:
        workspace: see there.
        banks: of the images of all teachers.
        classifier: that has learned, on the CPU.
        recipe: see there.
        weights: of the teachers, above 0, [teachers]; None if all count alike.
    """
    members = domains_to_read(workspace.zoo, recipe)
    if not members:
        named = len({contract.domain for contract in workspace.zoo})
        if recipe.by == "domain" and named > 1:
            message(
                f"note: the zoo names {named} domains, so new tasks are not read by domain; name like ones alike in "
                "the contracts, or raise readouts.domains"
            )
        return classifier
    compute = workspace.compute
    teachers = workspace.zoo.teachers_in_turn(compute.device)
    bank = banks.at(classifier.spec.input_size, [contract.name for contract in workspace.zoo])
    embedder = classifier.to(compute.device)
    shown, kernels = [], []
    with torch.no_grad(), workspace.progress_of("readouts", len(workspace.zoo)) as advance:
        for own in members.values():
            places = _places(bank, own, recipe.images)
            shown.append(_features(embedder, bank, places, Compute(compute.device)))
            said = _said(workspace, own, teachers, bank, places, advance)
            kernels.append(domain_kernel(shown[-1], said, None if weights is None else weights[own].tolist()))
        recogniser = domain_recogniser(shown)
    readouts = DomainReadouts([*members], torch.stack(kernels), recogniser)
    return MultiDomainClassifier(classifier.cpu(), readouts).eval()


def _places(bank: ResidentBank, teachers: Sequence[int], images: int) -> Tensor:
    """Places of at most so many images (but one of each teacher), the same number of each, evenly over its own."""
    parts = []
    for own in map(bank.places_of, teachers):
        count = min(own.stop - own.start, max(1, images // len(teachers)))
        parts.append(torch.linspace(own.start, own.stop - 1, count).long())
    return torch.cat(parts)


def _said(
    workspace: Workspace,
    indices: Sequence[int],
    teachers: Sequence[Embedder],
    bank: ResidentBank,
    places: Tensor,
    advance: Callable[[], object],
) -> Iterator[Tensor]:
    """Normalised features [n, any size] of the images at `places` by one teacher after the other."""
    for index in indices:
        workspace.check()
        yield functional.normalize(_features(teachers[index], bank, places, workspace.compute), dim=1)
        advance()


def _features(embedder: Embedder, bank: ResidentBank, places: Tensor, compute: Compute) -> Tensor:
    with compute.mixed():
        return torch.cat([embedder.features(bank.pixels(part)).float().cpu() for part in places.split(_CHUNK)])
