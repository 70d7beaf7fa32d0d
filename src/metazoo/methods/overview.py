"""Overview of the methods: what each needs, takes and gives, also of plug-ins."""

from dataclasses import dataclass
from typing import Literal

from metazoo.methods.base import Method, Origin, unlabelled_options
from metazoo.methods.registry import METHODS


@dataclass(frozen=True)
class MethodOverview:
    """Properties of a method.

    Attributes:
        name: name on the command line.
        title: full name.
        presets: names of the presets.
        needs: what it needs of every model: its weights, its outputs for images (queries), or nothing.
        one_architecture: whether all models must have one architecture.
        batch_norm: whether every model must have batch norm.
        labelled_validation: presets that need labelled validation images, so that a run is not data-free.
        unlabelled: presets that can learn from unlabelled images.
        uses: what the meta-model is made of; see `metazoo.methods.base.Origin`.
        is_random: whether the result depends on the seed.
        reference: publication to cite.
    """

    name: str
    title: str
    presets: tuple[str, ...]
    needs: Literal["weights", "queries", "nothing"]
    one_architecture: bool
    batch_norm: bool
    labelled_validation: tuple[str, ...]
    unlabelled: tuple[str, ...]
    uses: Origin
    is_random: bool
    reference: str

    @classmethod
    def of(cls, method: Method) -> "MethodOverview":
        """Overview of one method."""
        requires, is_of_zoo = method.requires, method.uses in ("images", "weights")
        return cls(
            name=method.name,
            title=method.title,
            presets=tuple(method.presets),
            needs="weights" if requires.white_box else "queries" if is_of_zoo else "nothing",
            one_architecture=requires.one_architecture,
            batch_norm=requires.batch_norm,
            labelled_validation=tuple(
                name for name, own in method.presets.items() if method.requires_in(own).labelled_validation
            ),
            unlabelled=tuple(name for name, own in method.presets.items() if unlabelled_options(own) is not None),
            uses=method.uses,
            is_random=method.is_random,
            reference=method.reference,
        )

    def cells(self) -> dict[str, str]:
        """Texts of the properties by column of a table."""
        return {
            "method": self.name,
            "presets": ", ".join(self.presets),
            "needs": self.needs,
            "architectures": "one" if self.one_architecture else "any",
            "batch norm": "needs" if self.batch_norm else "-",
            "labelled validation": self._of_presets("needs", self.labelled_validation),
            "unlabelled images": self._of_presets("takes", self.unlabelled),
            "made of": self.uses,
            "random": "yes" if self.is_random else "no",
            "reference": self.reference,
        }

    def _of_presets(self, verb: str, which: tuple[str, ...]) -> str:
        if not which:
            return "-"
        return verb if which == self.presets else f"{verb} ({', '.join(which)})"


def list_methods() -> list[MethodOverview]:
    """All methods with what each needs, takes and gives, in the order of registration.

    Raises:
        UsageError: the package of a plug-in cannot be loaded.
    """
    return [MethodOverview.of(method) for method in METHODS]


def methods_markdown() -> str:
    """Table of all methods in Markdown, without a line break at its end."""
    rows = [overview.cells() for overview in list_methods()]
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
