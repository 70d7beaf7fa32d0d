"""The stage that says what kinds of images a zoo is of; see `metazoo.taskspace.domains`."""

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from metazoo.learn.recipe import LearningRecipe
from metazoo.methods.trust import skill_of
from metazoo.methods.workspace import Workspace
from metazoo.run.progress import message
from metazoo.taskspace import kinds_of_images
from metazoo.zoo import ModelContract

DOMAINS = "taskspace/domains.json"


class DomainRecipe(BaseModel):
    """What is made of a zoo of several kinds of images.

    The meta-model learns longer, and gets a readout of every kind; see `metazoo.learn.readouts`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    by: Literal["contract", "nothing"] = Field(
        default="contract", description="nothing: all images are taken to be of one kind"
    )
    alike: float = Field(
        default=0.85, gt=0, description="domains whose models do so well on each other's images are of one kind"
    )
    kinds: int = Field(default=16, ge=2, description="of a zoo of more, all are taken to be one")
    steps: int = Field(default=1500, ge=0, description="of learning, more for every kind but the first")
    images: int = Field(default=2000, ge=2, description="recovered images of a kind that its readout is fitted to")


def named_domains(contracts: Iterable[ModelContract], recipe: DomainRecipe) -> int:
    """How many kinds there can be at most."""
    named = len({contract.domain for contract in contracts})
    return 1 if recipe.by == "nothing" else min(named, recipe.kinds)


def lengthened(learning: LearningRecipe, kinds: int, recipe: DomainRecipe) -> LearningRecipe:
    """The same learning with as many steps as so many kinds of images need."""
    return learning.model_copy(update={"steps": learning.steps + recipe.steps * max(0, kinds - 1)})


def find_kinds(workspace: Workspace, recipe: DomainRecipe) -> dict[str, list[int]]:
    """The models (their places in the zoo) of every kind of images, by its name.

    None if fewer than two kinds have several models: what a single one sees is too little to read a kind by. It needs
    the trust of the models in each other.
    """
    domains = [contract.domain for contract in workspace.zoo]
    if named_domains(workspace.zoo, recipe) < 2:
        return {}
    folder = workspace.folder
    if not folder.has(DOMAINS):
        kinds = kinds_of_images(skill_of(workspace), domains, recipe.alike)
        folder.write_json(DOMAINS, {"format_version": 1, "kinds": kinds})
        if len(kinds) > recipe.kinds:
            message(
                f"note: the zoo is of {len(kinds)} kinds of images, so all are taken to be one; name like domains "
                "alike in the contracts, or raise domains.kinds"
            )
    kinds = {
        " + ".join(kind): [index for index, domain in enumerate(domains) if domain in kind]
        for kind in folder.read_json(DOMAINS)["kinds"]
    }
    several = sum(len(own) > 1 for own in kinds.values())
    return kinds if several >= 2 and len(kinds) <= recipe.kinds else {}
