"""Which evaluated classes are not unseen: the models of a zoo were trained on them."""

import dataclasses
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from metazoo.data import ImageSet
from metazoo.errors import UsageError
from metazoo.text import printable, some_of

# What folders of ImageNet and of CUB have in front of the name proper.
_WORDNET_ID = re.compile(r"n\d{8}(?=[\W_]|$)")
_CUB_NUMBER = re.compile(r"\d{3}\.")
# Between two digits a separator means something: 1-2 is not 12.
_SEPARATORS = re.compile(r"(?<!\d)[\s_-]+|[\s_-]+(?!\d)")


class Contamination(BaseModel):
    """Evaluated classes that models were trained on, according to class names.

    Names can only hint: two things may share a name, and one thing may have two.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: int = Field(ge=0, description="whose class lists were compared; with 0 nothing is known")
    classes: int = Field(ge=0, description="compared, before any was left out")
    known: dict[str, tuple[str, ...]] = Field(
        description="those of the evaluated classes that models know, each with the names of these models"
    )
    selected_by: tuple[str, ...] = Field(
        default=(), exclude=True, description="evaluated classes whose images a run of version 0.1 selected models by"
    )
    excluded: bool = Field(default=False, description="whether the seen classes were left out of the episodes")

    def warnings(self, data: str) -> list[str]:
        """What to know of accuracy on these classes of `data`, a sentence each; nothing if they are all unseen."""
        unknown = f"the zoo behind it is gone or unknown, so nobody can say whether its models know classes of {data}"
        found = [unknown] if self.models == 0 else []
        if self.excluded:
            return found
        remedy = "the accuracy says nothing of unseen classes; --exclude-known leaves them out"
        if self.selected_by:
            found.append(f"the run selected its models by images of {len(self.selected_by)} of these classes; {remedy}")
        if self.known:
            name, models = next(iter(self.known.items()))
            found.append(
                f"{len(self.known)} of {self.classes} classes of {data} have the name of a class that a model of the "
                f"zoo was trained on, such as {printable(name)} (by {some_of(models, 1)}); if they are the "
                f"same, {remedy}"
            )
        return found

    @property
    def seen(self) -> frozenset[str]:
        """The evaluated classes that models know."""
        return frozenset(self.known)


def find_contamination(class_names: Sequence[str], class_lists: Mapping[str, Collection[str]]) -> Contamination:
    """Compare the evaluated classes with those that models were trained on.

    Two names agree if they are the same except for case, spaces, underscores, hyphens, and a WordNet id
    (`n02129165_Lion`) or a CUB number (`001.Albatross`) in front. Where both have a WordNet id, it alone decides.

    Args:
        class_names: names of the evaluated classes.
        class_lists: names of the classes of every model, by the model's name.
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
    """The image set without the classes that are not unseen, renamed accordingly, and the report that says so.

    Raises:
        UsageError: no model's classes are known, or fewer than `ways` classes remain.
    """
    if contamination.models == 0:
        raise UsageError("--exclude-known", "no model's classes are known", "evaluate without it")
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
