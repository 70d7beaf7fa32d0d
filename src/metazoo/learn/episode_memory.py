"""Memory from which episodes are drawn: for every class a ring of the images recovered last."""

from collections.abc import Mapping, Sequence
from typing import final

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from metazoo.errors import DataError
from metazoo.execution.randomness import generator
from metazoo.learn.learners import EpisodeImages

_ATTEMPTS = 100
CALIBRATION_IMAGES, CALIBRATION_BATCH = 2048, 256


@final
class EpisodeMemory:
    """Class-labelled recovered images, which TGR (ICML 2024) keeps between meta-iterations.

    A class has `slots` slots; an insertion replaces the next slot of every class in it. The published code keeps the
    slots as folders of PNG files, which it decodes for every episode; here they are uint8 tensors.

    Args:
        identities: number of classes.
        slots: number of insertions kept per class.
        conflicts: pairs of classes that may be equal and must not be in one episode, symmetric; None if there are none.
        device: device of the images and of the episodes.
    """

    def __init__(
        self,
        identities: int,
        slots: int = 20,
        conflicts: Bool[Tensor, "identities identities"] | None = None,
        *,
        device: str = "cpu",
    ) -> None:
        self._slots, self._device = slots, device
        self._rings: list[list[Tensor]] = [[] for _ in range(identities)]
        self._next = [0] * identities
        self._conflicts = torch.zeros(identities, identities, dtype=torch.bool) if conflicts is None else conflicts

    def add(self, images: UInt8[Tensor, "n 3 side side"], identities: Int64[Tensor, " n"]) -> None:
        """Insert `images` of the classes `identities`."""
        for identity in identities.unique().tolist():
            ring, slot = self._rings[identity], self._next[identity]
            own = images[identities == identity].to(self._device)
            if slot == len(ring):
                ring.append(own)
            else:
                ring[slot] = own
            self._next[identity] = (slot + 1) % self._slots

    def counts(self) -> Int64[Tensor, " identities"]:
        """Numbers of stored images."""
        return torch.tensor([sum(map(len, ring)) for ring in self._rings])

    def holds(self, ways: int, images_per_class: int) -> bool:
        """Whether there are `ways` classes without conflict that have `images_per_class` images each."""
        return self.draw_classes(ways, images_per_class, torch.Generator().manual_seed(0)) is not None

    def images(self, count: int, random: torch.Generator) -> Float[Tensor, "n 3 side side"]:
        """At most `count` different images of any classes, in [0, 1]."""
        stored = torch.cat([images for ring in self._rings for images in ring])
        return stored[torch.randperm(len(stored), generator=random)[:count]].float() / 255

    def calibration_batches(self, seed: int) -> Sequence[Float[Tensor, "n 3 side side"]]:
        """Batches of some images, from which a meta-model gets stored batch-norm statistics after learning."""
        images = self.images(CALIBRATION_IMAGES, generator(seed, "learn", "calibration", 0))
        return images.split(CALIBRATION_BATCH)

    def draw(self, ways: int, shots: int, queries: int, random: torch.Generator) -> EpisodeImages:
        """Draw an episode: classes uniformly among those with enough images, then distinct images of each class.

        Raises:
            DataError: too few classes have enough images, or too many of them conflict.
        """
        chosen = self.draw_classes(ways, shots + queries, random)
        if chosen is None:
            raise DataError(
                "memory of recovered images",
                f"no {ways} classes that are known to differ have {shots + queries} images each",
                "recover more images per class, or lower meta_model.ways or the numbers of shots or queries",
            )
        return self.draw_of(chosen, shots, queries, random)

    def draw_of(self, classes: Sequence[int], shots: int, queries: int, random: torch.Generator) -> EpisodeImages:
        """Draw distinct images of `classes`, which have enough of them and get the labels 0, 1, ... in this order."""
        ways, support, query = len(classes), [], []
        for identity in classes:
            images = torch.cat(self._rings[identity])
            indices = torch.randperm(len(images), generator=random)[: shots + queries]
            support.append(images[indices[:shots]])
            query.append(images[indices[shots:]])
        return EpisodeImages.of_classes(torch.cat(support).float() / 255, torch.cat(query).float() / 255, ways)

    def draw_classes(
        self, ways: int, images_per_class: int, random: torch.Generator, *, unlike: Sequence[int] = ()
    ) -> list[int] | None:
        """Draw `ways` classes without conflict that have `images_per_class` images each; None if there are none.

        Args:
            ways: number of classes.
            images_per_class: number of images that each must have.
            random: generator of the draw.
            unlike: further classes that no drawn class may equal or conflict with.
        """
        is_ready = self.counts() >= images_per_class
        is_ready[[*unlike]] = False
        is_ready &= ~self._conflicts[:, [*unlike]].any(1)
        ready = is_ready.nonzero().flatten()
        return draw_classes(ready, self._conflicts, ways, random)

    def state(self) -> dict[str, Tensor]:
        """Images by class and slot, for a checkpoint."""
        tensors = {
            f"memory.{identity}.{slot}": images
            for identity, ring in enumerate(self._rings)
            for slot, images in enumerate(ring)
        }
        return tensors | {"memory.next": torch.tensor(self._next)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Resume from `state`; other tensors are ignored.

        Raises:
            DataError: the tensors are not a state of a memory of this number of classes.
        """
        following = tensors.get("memory.next")
        if following is None or following.shape != (len(self._rings),):
            raise DataError("checkpoint", "does not fit the memory of recovered images", "start the run again")
        self._next = following.tolist()
        for identity in range(len(self._rings)):
            slots = (tensors.get(f"memory.{identity}.{slot}") for slot in range(self._slots))
            self._rings[identity] = [images.to(self._device) for images in slots if images is not None]


def draw_classes(
    ready: Int64[Tensor, " _"],
    conflicts: Bool[Tensor, "identities identities"],
    ways: int,
    random: torch.Generator,
) -> list[int] | None:
    """Draw `ways` of the classes `ready` without a conflict; None if none were found in many attempts.

    Args:
        ready: different classes.
        conflicts: pairs of classes that may be equal, symmetric.
        ways: number of classes to draw.
        random: source of the draws, on the CPU.
    """
    for _ in range(_ATTEMPTS if len(ready) >= ways else 0):
        chosen: list[int] = []
        for identity in ready[torch.randperm(len(ready), generator=random)].tolist():
            if not bool(conflicts[identity, chosen].any()):
                chosen.append(identity)
            if len(chosen) == ways:
                return chosen
    return None
