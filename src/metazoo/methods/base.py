"""What every method is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel

from metazoo.features.embedders import MultiDomainClassifier
from metazoo.models import ImageClassifier
from metazoo.pipeline.workspace import Workspace
from metazoo.zoo import Zoo


class Method(ABC):
    """A published method, in one or several presets.

    Attributes:
        name: as users type it.
        title: in full.
        reference: to cite.
        presets: named values of all its options; the type of the values is their schema.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    reference: ClassVar[str]
    presets: ClassVar[Mapping[str, BaseModel]]

    @abstractmethod
    def check(self, zoo: Zoo, config: Any, seed: int) -> None:
        """Say what is wrong with a run before any work: what it would only come upon later. Nothing is written.

        Args:
            zoo: of at least one model.
            config: of the type of one of `presets`.
            seed: of the run.

        Raises:
            MetazooError: of the kind that the stage itself would raise.
        """

    @abstractmethod
    def train(self, workspace: Workspace, config: Any) -> ImageClassifier | MultiDomainClassifier:
        """Learn a meta-model from the zoo; what a former call has finished is not done again.

        Args:
            workspace: see there.
            config: of the type of one of `presets`.
        """
