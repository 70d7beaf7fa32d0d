"""What turns images into features: the interface heads work on, and embedders without any training."""

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from metazoo.errors import UsageError
from metazoo.features.domain_router import DomainRecogniser
from metazoo.models import ImageClassifier, Network, square_images


@runtime_checkable
class Embedder(Protocol):
    """Any `nn.Module` with features: an image classifier, a teacher, a meta-model, one of this module's."""

    def features(self, images: Tensor) -> Tensor:
        """Features [n, d] of float `images` [n, 3, h, w] in [0, 1]."""
        ...

    def modules(self) -> Iterator[nn.Module]:
        """As `nn.Module.modules`."""
        ...

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """As `nn.Module.parameters`."""
        ...


class SideBySide(nn.Module):
    """The features of several embedders side by side, as they are.

    Images are fitted to the largest input of the members first, and then by each member to its own: the path of images
    is the same in evaluation and in a few-shot classifier.

    Raises:
        UsageError: there are no members.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if not members:
            raise UsageError("features side by side", "no model given", "give at least one")
        self.members = nn.ModuleList(members)
        self._side = max(map(input_size, members))

    def parts(self, images: Tensor) -> Iterator[Tensor]:
        """Features [n, feature size] of every member."""
        images = square_images(images, self._side) if self._side else images
        return (member.features(images) for member in self.members)  # pyright: ignore[reportCallIssue]

    def features(self, images: Tensor) -> Tensor:
        """Features [n, sum of the members' feature sizes]."""
        return torch.cat([*self.parts(images)], dim=1)


class JointFeatures(SideBySide):
    """The features of several embedders side by side, each scaled to length 1 so that all count alike.

    Of a whole zoo this is its untrained ensemble: the cosine of two joint features is the mean of the members' cosines.
    """

    def features(self, images: Tensor) -> Tensor:
        """Features [n, sum of the members' feature sizes]."""
        return torch.cat([functional.normalize(part, dim=1) for part in self.parts(images)], dim=1)


class JointFeaturesInTurn:
    """The same features of members that are loaded when they are asked for, so that any number of them will do.

    Members must be in evaluation mode, and stay so: they are no modules of this object, so that nobody can change their
    mode or their statistics. It therefore serves batch norm `running`, and heads that leave a model alone.

    Args:
        members: embedders on `device`, at least one; each is asked for anew with every batch of images.
        side: largest input of the members, that images are fitted to first; 0 for none.
        device: device of the features.
    """

    def __init__(self, members: Sequence[Embedder], side: int, device: str | torch.device = "cpu") -> None:
        self._members, self._side, self._device = members, side, device

    def features(self, images: Tensor) -> Tensor:
        """Features [n, sum of the members' feature sizes]."""
        images = images.to(self._device)
        images = square_images(images, self._side) if self._side else images
        return torch.cat([functional.normalize(member.features(images), dim=1) for member in self._members], dim=1)

    def modules(self) -> Iterator[nn.Module]:
        """None."""
        return iter(())

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """None."""
        return iter(())


class MirroredFeatures(nn.Module):
    """The mean of the features of an image and of its mirror image, left to right, which pass as one batch.

    Of photographs these are the better features, at twice the cost, and no image depends on another by them. Where left
    and right matter, as in characters and traffic signs, they are the worse ones.
    """

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.embedder = embedder

    def features(self, images: Tensor) -> Tensor:
        """Features [n, d], as many as the embedder's own."""
        return self.embedder.features(torch.cat([images, images.flip(3)])).unflatten(0, (2, -1)).mean(0)


class MultiDomainClassifier(SideBySide):
    """A network for each of several domains, and the recogniser of the domains that a new task is of.

    Its features are those of all networks; heads find by `recogniser_of` how a task weighs them.

    Args:
        networks: classifiers of one architecture and input size: one per domain in the order of the recogniser's
            domains, then the general network where it has a share.
        recogniser: recogniser of domains by the features of the per-domain networks.

    Raises:
        UsageError: they do not fit.
    """

    def __init__(self, networks: Sequence[ImageClassifier], recogniser: DomainRecogniser) -> None:
        super().__init__(networks)
        sizes = [own.network.feature_size for own in networks]
        if sizes != [recogniser.size] * (len(recogniser.domains) + recogniser.is_general):
            raise UsageError(
                f"a recogniser of {len(recogniser.domains)} domains, {list(recogniser.weight.shape)}, does not fit "
                f"{len(networks)} networks of {sizes} features"
            )
        self.recogniser = recogniser

    @property
    def networks(self) -> tuple[ImageClassifier, ...]:
        """The per-domain networks, then the general one if there is one."""
        return tuple(member for member in self.members if isinstance(member, ImageClassifier))

    def for_domain(self, domain: str) -> "ImageClassifier | MultiDomainClassifier":
        """The embedder for tasks of the known domain `domain`; weights are shared.

        Raises:
            UsageError: there is no such domain.
        """
        known, index = self.recogniser.for_domain(domain), self.recogniser.index_of(domain)
        return self.networks[index] if known.general[index] == 0 else MultiDomainClassifier(self.networks, known).eval()


class PixelFeatures(nn.Module):
    """The image itself as its features, fitted to `side` x `side` pixels by `square_images`.

    Raises:
        UsageError: `side` is not positive.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        if side < 1:
            raise UsageError(f"image side must be at least 1 pixel, not {side}")
        self.side = side

    def features(self, images: Tensor) -> Tensor:
        """Features [n, channels * side * side] in [0, 1]."""
        return square_images(images, self.side).flatten(1)


def input_size(member: object) -> int:
    """Side in pixels of the input of a classifier or teacher; 0 for an embedder that takes any size."""
    network = getattr(member, "classifier", member)
    return network.spec.input_size if isinstance(network, ImageClassifier) else 0


def recogniser_of(module: Embedder) -> DomainRecogniser | None:
    """The recogniser by which tasks weigh the features of this module; None if they take them as they are."""
    module = module.embedder if isinstance(module, MirroredFeatures) else module
    return module.recogniser if isinstance(module, MultiDomainClassifier) else None


def for_known_domain(module: Embedder, domain: str) -> ImageClassifier | MultiDomainClassifier:
    """The embedder for tasks of the known domain `domain`.

    Raises:
        UsageError: the module serves all tasks alike, or has no such domain.
    """
    if not isinstance(module, MultiDomainClassifier):
        raise UsageError(f"domain {domain!r}", "this meta-model has one domain", "omit --domain (in Python, domain)")
    return module.for_domain(domain)


def count_parameters(module: Embedder) -> int:
    """Number of parameters that features depend on: all but the class heads, which every new task replaces.

    The weight of a recogniser of domains counts too.
    """
    heads = {id(p) for part in module.modules() if isinstance(part, Network) for p in part.head.parameters()}
    recogniser = recogniser_of(module)
    own = sum(parameter.numel() for parameter in module.parameters() if id(parameter) not in heads)
    return own if recogniser is None else own + recogniser.weight.numel()


def device_of(module: Embedder) -> torch.device | None:
    """The device of the module; None if it has neither parameters nor buffers, and so computes anywhere."""
    for part in module.modules():
        for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
            return tensor.device
    return None
