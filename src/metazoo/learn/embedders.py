"""What turns images into features: the interface heads work on, and embedders without any training."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from metazoo.errors import UsageError
from metazoo.learn.readouts import DomainReadouts
from metazoo.models import ImageClassifier, Network


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


class JointFeatures(nn.Module):
    """The features of several embedders side by side, each scaled to length 1 so that all count alike.

    Of a whole zoo this is its untrained ensemble: the cosine of two joint features is the mean of the members' cosines.

    Raises:
        UsageError: there are no members.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if not members:
            raise UsageError("joint features need at least one model; give some")
        self.members = nn.ModuleList(members)

    def features(self, images: Tensor) -> Tensor:
        """Features [n, sum of the members' feature sizes]."""
        return torch.cat(
            [functional.normalize(member.features(images), dim=1) for member in self.members],  # pyright: ignore[reportCallIssue]
            dim=1,
        )


class JointFeaturesInTurn:
    """The same features of members that are loaded when they are asked for, so that any number of them will do.

    Members must be in evaluation mode, and stay so: they are no modules of this object, so that nobody can change their
    mode or their statistics. It therefore serves batch norm `running`, and heads that leave a model alone.

    Args:
        members: embedders on `device`, at least one; each is asked for anew with every batch of images.
        device: where features are computed.
    """

    def __init__(self, members: Sequence[Embedder], device: str | torch.device = "cpu") -> None:
        self._members, self._device = members, device

    def features(self, images: Tensor) -> Tensor:
        """Features [n, sum of the members' feature sizes]."""
        images = images.to(self._device)
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


class MultiDomainClassifier(nn.Module):
    """An image classifier with readouts: by them every new task is read in the way of the domains that it looks like.

    Its features are the classifier's own; heads find the readouts by `readouts_of`.
    """

    def __init__(self, classifier: ImageClassifier, readouts: DomainReadouts) -> None:
        super().__init__()
        self.classifier, self.readouts = classifier, readouts

    def features(self, images: Tensor) -> Tensor:
        """Features [n, network.feature_size]."""
        return self.classifier.features(images)


class PixelFeatures(nn.Module):
    """The image itself as its features, resized (bilinear, antialiased) to `side` x `side` pixels.

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
        size = (self.side, self.side)
        if images.shape[-2:] != size:
            images = functional.interpolate(images, size=size, mode="bilinear", antialias=True)
        return images.flatten(1)


def readouts_of(module: Embedder) -> DomainReadouts | None:
    """How tasks read the features of this module; None if they take them as they are."""
    module = module.embedder if isinstance(module, MirroredFeatures) else module
    return module.readouts if isinstance(module, MultiDomainClassifier) else None


def told_domain(module: Embedder, domain: str, *, head_reads: bool) -> MultiDomainClassifier:
    """The module for tasks that are known to be of `domain`; weights are shared.

    Raises:
        UsageError: it or the head reads all tasks alike, or it knows no such domain.
    """
    if not head_reads or not isinstance(module, MultiDomainClassifier):
        raise UsageError(
            f"domain {domain!r} would change nothing: this {'model' if head_reads else 'head'} reads all images alike; "
            "leave it out"
        )
    return MultiDomainClassifier(module.classifier, module.readouts.told(domain))


def count_parameters(module: Embedder) -> int:
    """Parameters that features depend on: all but the class heads of networks, which every new task replaces.

    Those of readouts count too.
    """
    heads = {id(p) for part in module.modules() if isinstance(part, Network) for p in part.head.parameters()}
    readouts = readouts_of(module)
    own = sum(parameter.numel() for parameter in module.parameters() if id(parameter) not in heads)
    return own if readouts is None else own + readouts.size


def device_of(module: Embedder) -> torch.device | None:
    """Where the module computes; None if it has neither parameters nor buffers, and so computes anywhere."""
    for part in module.modules():
        for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
            return tensor.device
    return None
