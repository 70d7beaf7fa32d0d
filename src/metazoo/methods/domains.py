"""The stage that says what kinds of images a zoo is of; see `metazoo.taskspace.domains`."""

from collections import Counter
from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from metazoo.learn.recipe import LearningRecipe
from metazoo.learn.recogniser import JOINT
from metazoo.methods.trust import SKILL, skill_of
from metazoo.methods.workspace import Workspace
from metazoo.run.progress import message
from metazoo.taskspace import kinds_of_images
from metazoo.zoo import ModelContract

DOMAINS = "taskspace/domains.json"


class DomainRecipe(BaseModel):
    """What is made of a zoo of several kinds of images.

    The meta-model goes on to learn from every kind alone, and becomes a specialist of each; see
    `metazoo.learn.recogniser`.
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


def most_kinds(contracts: Iterable[ModelContract], recipe: DomainRecipe) -> int:
    """How many kinds `find_kinds` can find at most; 1 if all images will be taken to be of one."""
    named = Counter(contract.domain for contract in contracts)
    several = sum(count > 1 for count in named.values())
    return 1 if recipe.by == "nothing" or several < 2 else min(several, recipe.kinds)


def specialised(learning: LearningRecipe, recipe: DomainRecipe) -> LearningRecipe:
    """How a specialist of a kind goes on to learn."""
    changes = {
        "steps": max(1, round(learning.steps * recipe.specialise)),
        "learning_rate": learning.learning_rate * recipe.learning_rate,
    }
    return learning.model_copy(update=changes)


def find_kinds(workspace: Workspace, recipe: DomainRecipe) -> dict[str, list[int]]:
    """The models (their places in the zoo) of every kind of images, by its name; none, or two and more.

    A single model of its kind is in none of them: what one model sees is too little to read a kind by. The models must
    have judged each other; of a run that did so before this was kept, all images are of one kind.
    """
    folder, domains = workspace.folder, [contract.domain for contract in workspace.zoo]
    if most_kinds(workspace.zoo, recipe) < 2 or not folder.has(SKILL):
        return {}
    if not folder.has(DOMAINS):
        found = kinds_of_images(skill_of(workspace), domains, recipe.alike)
        folder.write_json(DOMAINS, {"format_version": 1, "kinds": found})
    found = folder.read_json(DOMAINS)["kinds"]
    places = [[index for index, domain in enumerate(domains) if domain in kind] for kind in found]
    kinds = [(kind, own) for kind, own in zip(found, places, strict=True) if len(own) > 1]
    if len(kinds) > recipe.kinds:
        message(
            f"note: the zoo is of {len(kinds)} kinds of images, so all are taken to be one; name like domains alike in "
            "the contracts, or raise domains.kinds"
        )
    if not 2 <= len(kinds) <= recipe.kinds:
        return {}
    named: dict[str, list[int]] = {}
    for kind, own in kinds:
        name = JOINT.join(kind)
        while name in named:  # a domain can be called by two others
            name += "'"
        named[name] = own
    return named
