"""How a new task reads the features of a meta-model that has learned from several domains.

One space of features cannot be measured in a way that suits every domain: what tells two traffic signs apart varies for
no reason between two animals, and as one image a class does not say which is which, it counts all the same. But the zoo
says it, without data: how alike the teachers of one domain would see two images can be said by an inner product of the
meta-model's features, and that is this domain's own way of measuring (how it is found: `kernels`). A new task is read
in the way of the domain that its support images look like, by what tells the domains' recovered images apart.

Of several domains' features the best for a task are selected by SUR (Dvornik et al. 2020), and distilled into one
network by URL (Li et al. 2021); both have the domains' real images. Deviations: no image but recovered ones, no
descent on the support, and the choice is by what the images look like, so that it serves one image a class as well.
"""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from metazoo.errors import UsageError
from metazoo.learn.linear_inputs import normalised_inputs

_INDEPENDENT_IMAGES = 3
_JITTER = 1e-6
_CERTAIN = 1e4


def read(features: Tensor, reading: Tensor) -> Tensor:
    """Features [n, d] as a task reads them, [n, d + 1], by `reading` [d + 1, d + 1].

    The linear map is that of `normalised_inputs`; what it gives has the length of the features as a factor, which most
    heads take away again.
    """
    length = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    return torch.cat([features, length], dim=-1) @ reading


@final
class DomainReadouts(nn.Module):
    """What is known of the domains that a meta-model has learned from.

    Args:
        domains: their names, at least two, all different.
        kernels: float [domains, d + 1, d + 1], symmetric and positive semi-definite: the inner product that a domain is
            read by, as a form in the `normalised_inputs` of the meta-model's features [n, d].
        recogniser: float [d + 1, domains], from the same inputs to the logits of the domains.

    Raises:
        UsageError: shapes or names do not fit, or a kernel is not of that kind.
    """

    def __init__(self, domains: Sequence[str], kernels: Tensor, recogniser: Tensor) -> None:
        super().__init__()
        self.domains = tuple(domains)
        count, size = len(self.domains), kernels.shape[-1]
        if count < 2 or len(set(self.domains)) < count:
            raise UsageError("readouts need at least two domains, each with a name of its own")
        if kernels.shape != (count, size, size) or recogniser.shape != (size, count):
            raise UsageError(
                f"readouts of {count} domains have kernels [{count}, d, d] and a recogniser [d, {count}], not "
                f"{list(kernels.shape)} and {list(recogniser.shape)}"
            )
        self.kernels, self.recogniser = nn.Buffer(kernels), nn.Buffer(recogniser)
        if any(not torch.equal(own, own.T) or bool(torch.linalg.cholesky_ex(_definite(own)).info) for own in kernels):
            raise UsageError("a domain's kernel must be symmetric and positive semi-definite")

    @property
    def size(self) -> int:
        """Numbers in it, each pair of equal ones counted once."""
        count, size = len(self.domains), self.kernels.shape[-1]
        return count * size * (size + 1) // 2 + self.recogniser.numel()

    def told(self, domain: str) -> "DomainReadouts":
        """The same for tasks that are known to be of `domain`, whatever their images look like.

        Raises:
            UsageError: there is no such domain.
        """
        if domain not in self.domains:
            raise UsageError(f"the meta-model knows no domain {domain!r}; choose one of {', '.join(self.domains)}")
        recogniser = torch.zeros_like(self.recogniser)
        recogniser[-1, self.domains.index(domain)] = _CERTAIN
        return DomainReadouts(self.domains, self.kernels, recogniser)

    def shares(self, support_features: Tensor) -> Tensor:
        """How much a task is of each domain: [..., domains], summing to 1, from its support's features [..., n, d].

        The images of a task are no independent evidence, as they may be unlike every domain in the same way. So the
        mean of their log-probabilities counts as that of three images, however many there are.
        """
        logits = normalised_inputs(support_features) @ self.recogniser
        return torch.softmax(_INDEPENDENT_IMAGES * torch.log_softmax(logits, -1).mean(-2), -1)

    def reading(self, support_features: Tensor) -> tuple[Tensor, Tensor]:
        """The map [d + 1, d + 1] for `read` of one task, from its support's features [n, d], and its `shares`.

        Inner products after it are the domains' kernels, mixed by the shares.
        """
        shares = self.shares(support_features)
        mixed = torch.einsum("k,kij->ij", shares.double(), self.kernels.double())
        return torch.linalg.cholesky(_definite(mixed)).to(support_features.dtype), shares

    def read_by_all(self, features: Tensor) -> Tensor:
        """Features [n, d] as every domain reads them, side by side: [n, domains * (d + 1)].

        With each domain's part times the root of its share they have the inner products of `reading`, so many tasks can
        share them.
        """
        return torch.cat(
            [read(features, torch.linalg.cholesky(_definite(own)).to(features.dtype)) for own in self.kernels], dim=-1
        )

    def scale(self, shares: Tensor) -> Tensor:
        """What `read_by_all` is multiplied by for tasks of these `shares` [..., domains]: [..., domains * (d + 1)]."""
        return shares.sqrt().repeat_interleave(self.kernels.shape[-1], dim=-1)


def _definite(kernel: Tensor) -> Tensor:
    """`kernel` [d, d] in float64, with so much on the diagonal that rounding does not make it indefinite."""
    kernel = kernel.double().clone()
    diagonal = kernel.diagonal()
    diagonal += _JITTER * diagonal.mean().clamp_min(_JITTER)
    return kernel
