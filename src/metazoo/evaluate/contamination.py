"""Contamination: evaluated classes that models were trained on, and images that a meta-model learned from."""

import dataclasses
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from metazoo.data import ImageSet
from metazoo.errors import UsageError
from metazoo.text import printable, some_of

# Prefixes of the names of class folders in ImageNet and CUB.
_WORDNET_ID = re.compile(r"n\d{8}(?=[\W_]|$)")
_CUB_NUMBER = re.compile(r"\d{3}\.")
# A separator between two digits matters: 1-2 is not 12.
_SEPARATORS = re.compile(r"(?<!\d)[\s_-]+|[\s_-]+(?!\d)")


class Contamination(BaseModel):
    """Evaluated classes that models were trained on, according to class names, and images that were learned from.

    Names are only an indication: different things may have the same name, and one thing may have several names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: int = Field(ge=0, description="number of models whose class lists were compared; 0 if none are known")
    classes: int = Field(ge=0, description="number of evaluated classes before exclusion")
    known: dict[str, tuple[str, ...]] = Field(
        description="evaluated classes that models were trained on, with the names of these models"
    )
    selected_by: tuple[str, ...] = Field(
        default=(),
        exclude=True,
        description="evaluated classes whose images a run of version 0.1 used to select models",
    )
    unlabelled: int | None = Field(
        default=None,
        ge=0,
        description="number of evaluated images, before exclusion, that the meta-model learned from without labels; "
        "None if it is data-free, or if the images were not compared",
    )
    validated: int | None = Field(
        default=None,
        ge=0,
        description="number of evaluated images, before exclusion, among the labelled validation images that directed "
        "the run; None if it used none, or if the images were not compared",
    )
    excluded: bool = Field(default=False, description="whether these classes were excluded from the episodes")

    def warnings(self, data: str) -> list[str]:
        """Warnings about the accuracy on `data`; empty if all classes and images are unseen."""
        unknown = f"its zoo is not available, so models may have been trained on classes of {data}"
        found = [unknown] if self.models == 0 else []
        if self.unlabelled:
            found.append(
                f"{self.unlabelled:,} images of {data} are among the unlabelled images that the meta-model learned "
                "from; the accuracy is not that of unseen images; evaluate on others"
            )
        if self.validated:
            found.append(
                f"{self.validated:,} images of {data} are among the labelled validation images that directed the run; "
                "the accuracy is not that of unseen images; evaluate on others"
            )
        if self.excluded:
            return found
        remedy = "the accuracy is not that of unseen classes; exclude them with --exclude-known"
        if self.selected_by:
            found.append(f"the run selected models with images of {len(self.selected_by)} of these classes; {remedy}")
        if self.known:
            name, models = next(iter(self.known.items()))
            found.append(
                f"{len(self.known)} of {self.classes} classes of {data} have the name of a class that a model was "
                f"trained on, such as {printable(name)} ({some_of(models, 1)}); if they are the same, {remedy}"
            )
        return found

    @property
    def seen(self) -> frozenset[str]:
        """Evaluated classes that models were trained on."""
        return frozenset(self.known)


def find_contamination(class_names: Sequence[str], class_lists: Mapping[str, Collection[str]]) -> Contamination:
    """Find evaluated classes that models were trained on, by their names.

    Names are compared without case, spaces, underscores, hyphens, and a WordNet id (`n02129165_Lion`) or CUB number
    (`001.Albatross`) in front. If both have a WordNet id, only the ids are compared.

    Args:
        class_names: names of the evaluated classes.
        class_lists: class names of every model, by name of the model.
    """
    holders: dict[tuple[str, str], set[str]] = {}
    for model, names in class_lists.items():
        for name in names:
            holders.setdefault(_normalised(name), set()).add(model)
    known: dict[str, tuple[str, ...]] = {}
    for name in class_names:
        own = _normalised(name)
        models = set().union(*(members for other, members in holders.items() if _agree(own, other)))
        if models:
            known[name] = tuple(sorted(models))
    return Contamination(models=len(class_lists), classes=len(class_names), known=known)


def exclude_known(image_set: ImageSet, contamination: Contamination, ways: int) -> tuple[ImageSet, Contamination]:
    """Exclude the classes that models were trained on from an image set.

    Returns:
        Image set with the remaining classes and a corresponding name, and contamination marked as excluded.

    Raises:
        UsageError: the classes of no model are known, or fewer than `ways` classes remain.
    """
    if contamination.models == 0:
        raise UsageError("--exclude-known", "the classes of no model are known", "omit the option")
    unknown = [index for index, name in enumerate(image_set.class_names) if name not in contamination.seen]
    if len(unknown) < ways:
        raise UsageError(
            image_set.name,
            f"only {len(unknown)} of {len(image_set.class_names)} classes are unseen, too few for {ways}-way episodes",
            "give other data or ask for fewer ways",
        )
    if contamination.seen:
        name = f"{image_set.name} without {len(contamination.seen)} known classes"
        image_set = dataclasses.replace(image_set.select_classes(unknown), name=name)
    return image_set, contamination.model_copy(update={"excluded": True})


def _normalised(name: str) -> tuple[str, str]:
    """The WordNet id in front of a name, if any, and what the rest is compared by."""
    text = unicodedata.normalize("NFKC", name).casefold().strip()
    identity = _WORDNET_ID.match(text) or _CUB_NUMBER.match(text)
    rest = text[identity.end() :] if identity else text
    plain = re.sub(r"[\s_-]+", " ", _SEPARATORS.sub("", rest))
    wordnet_id = identity[0] if identity and identity.re is _WORDNET_ID else ""
    return wordnet_id, plain or ("" if wordnet_id else text)


def _agree(one: tuple[str, str], other: tuple[str, str]) -> bool:
    if one[0] and other[0]:
        return one[0] == other[0]
    return one[1] == other[1] != ""
