"""What every method is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel

from metazoo.learn.embedders import MultiDomainClassifier
from metazoo.methods.workspace import Workspace
from metazoo.models import ImageClassifier
from metazoo.zoo import Zoo


class Method(ABC):
    """A published method, in one or several settings.

    Attributes:
        name: as users type it.
        title: in full.
        reference: to cite.
        settings: named values of all its options; the type of the values is their schema.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    reference: ClassVar[str]
    settings: ClassVar[Mapping[str, BaseModel]]

    @abstractmethod
    def check(self, zoo: Zoo, recipe: Any, seed: int) -> None:
        """Say what is wrong with a run before any work: what it would only come upon later. Nothing is written.

        Args:
            zoo: of at least one model.
            recipe: of the type of one of `settings`.
            seed: of the run.

        Raises:
            MetazooError: of the kind that the stage itself would raise.
        """

    @abstractmethod
    def train(self, workspace: Workspace, recipe: Any) -> ImageClassifier | MultiDomainClassifier:
        """Learn a meta-model from the zoo; what a former call has finished is not done again.

        Args:
            workspace: see there.
            recipe: of the type of one of `settings`.
        """
