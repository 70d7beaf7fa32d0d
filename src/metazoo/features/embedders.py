"""Embedders, which turn images into features: the interface that heads use, and compositions of embedders."""

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
    """Module with features: an image classifier, a teacher, a meta-model or an embedder of this file."""

    def features(self, images: Tensor) -> Tensor:
        """Features [n, d] of float `images` [n, 3, h, w] in [0, 1]."""
        ...

    def modules(self) -> Iterator[nn.Module]:
        """Modules, see `nn.Module.modules`."""
        ...

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Parameters, see `nn.Module.parameters`."""
        ...


class SideBySide(nn.Module):
    """Concatenated features of several embedders.

    Images are resized to the largest input of the members first, and then by each member to its own input, so that
    evaluation and few-shot classifiers process images in the same way.

    Raises:
        UsageError: there are no members.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if not members:
            raise UsageError("members", "no model given", "give at least one")
        self.members = nn.ModuleList(members)
        self._side = max(map(input_size, members))

    @property
    def networks(self) -> tuple[ImageClassifier, ...]:
        """Members that are image classifiers."""
        return tuple(member for member in self.members if isinstance(member, ImageClassifier))

    def parts(self, images: Tensor) -> Iterator[Tensor]:
        """Features [n, feature size] of every member."""
        images = square_images(images, self._side) if self._side else images
        return (member.features(images) for member in self.members)  # pyright: ignore[reportCallIssue]

    def features(self, images: Tensor) -> Tensor:
        """Features [n, sum of the members' feature sizes]."""
        return torch.cat([*self.parts(images)], dim=1)


class JointFeatures(SideBySide):
    """Concatenated features of several embedders, each scaled to length 1 so that all have equal weight.

    The cosine of two joint features is the mean of the members' cosines. With all models of a zoo, this is the zoo
    ensemble.
    """

    def features(self, images: Tensor) -> Tensor:
        """Features [n, sum of the members' feature sizes]."""
        return torch.cat([functional.normalize(part, dim=1) for part in self.parts(images)], dim=1)


class JointFeaturesInTurn:
    """Joint features of members that are loaded one after another, so that memory does not limit their number.

    Members must be in evaluation mode. They are not submodules of this object, so nothing can change their mode or
    statistics: only batch norm `running` and heads that do not change a model can be used.

    Args:
        members: embedders on `device`, at least one. Every batch of images fetches each member from the sequence.
        side: largest input of the members, to which images are resized first; 0 for no resizing.
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
        """Empty, since members are not submodules."""
        return iter(())

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Empty, since members are not submodules."""
        return iter(())


class MirroredFeatures(nn.Module):
    """Mean of the features of an image and of its mirror image (left to right), computed in one batch.

    These features are better for photographs, at twice the cost. They are worse where left and right matter, as in
    characters and traffic signs. Images do not influence each other.
    """

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.embedder = embedder

    def features(self, images: Tensor) -> Tensor:
        """Features [n, d], of the same size as those of the embedder."""
        return self.embedder.features(torch.cat([images, images.flip(3)])).unflatten(0, (2, -1)).mean(0)


class MultiDomainClassifier(SideBySide):
    """Networks of several domains, and a recogniser of the domains of a new task.

    Its features are the concatenated features of all networks; heads weight them by `recogniser_of`.

    Args:
        networks: classifiers of the same architecture and input size: one per domain, in the order of the domains of
            the recogniser, then the general network if it has a share.
        recogniser: recogniser of domains on the features of the per-domain networks.

    Raises:
        UsageError: the networks do not fit the recogniser.
    """

    def __init__(self, networks: Sequence[ImageClassifier], recogniser: DomainRecogniser) -> None:
        super().__init__(networks)
        sizes = [own.network.feature_size for own in networks]
        if sizes != [recogniser.size] * (len(recogniser.domains) + recogniser.is_general):
            raise UsageError(
                "networks",
                f"{sizes} features do not fit a recogniser of {len(recogniser.domains)} domains with weight "
                f"{list(recogniser.weight.shape)}",
            )
        self.recogniser = recogniser

    def for_domain(self, domain: str) -> "ImageClassifier | MultiDomainClassifier":
        """Embedder for tasks of a known domain, which shares its weights with this one.

        Raises:
            UsageError: the domain is unknown.
        """
        known, index = self.recogniser.for_domain(domain), self.recogniser.index_of(domain)
        return self.networks[index] if known.general[index] == 0 else MultiDomainClassifier(self.networks, known).eval()


MetaModelModule = ImageClassifier | MultiDomainClassifier | JointFeatures
"""Module of a meta-model: one network, one for each of several domains, or several networks side by side."""


class PixelFeatures(nn.Module):
    """Pixels as features, after resizing to `side` x `side` pixels by `square_images`.

    Raises:
        UsageError: `side` is not positive.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        if side < 1:
            raise UsageError("side", f"must be at least 1 pixel, not {side}")
        self.side = side

    def features(self, images: Tensor) -> Tensor:
        """Features [n, channels * side * side] in [0, 1]."""
        return square_images(images, self.side).flatten(1)


def input_size(member: object) -> int:
    """Side of the input of a classifier or teacher in pixels; 0 for an embedder without a fixed size."""
    network = getattr(member, "classifier", member)
    return network.spec.input_size if isinstance(network, ImageClassifier) else 0


def recogniser_of(module: Embedder) -> DomainRecogniser | None:
    """Recogniser that weights the features of a module for a task; None if features are not weighted."""
    module = module.embedder if isinstance(module, MirroredFeatures) else module
    return module.recogniser if isinstance(module, MultiDomainClassifier) else None


def for_known_domain(module: Embedder, domain: str) -> ImageClassifier | MultiDomainClassifier:
    """Embedder for tasks of a known domain.

    Raises:
        UsageError: the module has one domain, or the domain is unknown.
    """
    if not isinstance(module, MultiDomainClassifier):
        raise UsageError(
            f"domain {domain!r}", "this meta-model has one domain", "omit --domain (in Python, the argument domain)"
        )
    return module.for_domain(domain)


def count_parameters(module: Embedder) -> int:
    """Number of parameters that features depend on, including the weight of a domain recogniser.

    Class heads are not counted, because every new task replaces them.
    """
    heads = {id(p) for part in module.modules() if isinstance(part, Network) for p in part.head.parameters()}
    recogniser = recogniser_of(module)
    own = sum(parameter.numel() for parameter in module.parameters() if id(parameter) not in heads)
    return own if recogniser is None else own + recogniser.weight.numel()


def device_of(module: Embedder) -> torch.device | None:
    """Device of a module; None if it has neither parameters nor buffers."""
    for part in module.modules():
        for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
            return tensor.device
    return None
