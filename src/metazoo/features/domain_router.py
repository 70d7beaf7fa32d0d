"""Which domains a new task is of, for a meta-model that has a network for each.

One network cannot serve every domain as well as a network of each domain serves its own: what distinguishes two traffic
signs varies for no reason between two animals. A new task takes the features of the networks whose domain its support
images look like, by a classifier of the recovered images of the domains. A per-domain network of few models knows
little beyond these; so the general network that it was made from stands beside it with a share of its own.

SUR (Dvornik et al. 2020) selects among networks of many domains by descent on the support, and URL (Li et al. 2021)
distils them into one; both have the domains' real images. Deviations: no image but recovered ones, and the choice is by
what the images look like, so that it serves one image a class as well.
"""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from metazoo.errors import UsageError
from metazoo.features.linear_models import logistic_regression, normalised_inputs

JOINT = " + "
"""Between the names of domains in the name of a merged domain."""
_INDEPENDENT_IMAGES = 3
_LEAST_SHARE = 0.02
_CERTAIN = 1e4
_PENALTY, _IMAGES, _STEPS = 0.3, 6000, 300


@final
class DomainRecogniser(nn.Module):
    """A linear classifier of the domains of a meta-model by the features of its per-domain networks.

    Args:
        domains: names, at least two, all different.
        weight: float [d + 1, domains], from the `normalised_inputs` of the networks' features [n, d], side by side, to
            the logits of the domains.
        general: share of the features of the general network in each domain, in [0, 1], the rest being the per-domain
            network's; None for none.

    Raises:
        UsageError: shapes or names do not fit, or a share is none.
    """

    def __init__(self, domains: Sequence[str], weight: Tensor, general: Sequence[float] | None = None) -> None:
        super().__init__()
        self.domains = tuple(domains)
        self.general = (0.0,) * len(self.domains) if general is None else tuple(general)
        count = len(self.domains)
        if count < 2 or len(set(self.domains)) < count:
            raise UsageError("a recogniser needs at least two domains, each with a name of its own")
        if weight.ndim != 2 or weight.shape[1] != count or weight.shape[0] % count != 1:
            raise UsageError(
                f"the weight of a recogniser of {count} domains is [{count} * d + 1, {count}], not {list(weight.shape)}"
            )
        if len(self.general) != count or not all(0 <= share <= 1 for share in self.general):
            raise UsageError(f"each of {count} domains has a general share in [0, 1], not {list(self.general)}")
        self.weight = nn.Buffer(weight)

    @property
    def size(self) -> int:
        """Number of features of one network."""
        return len(self.weight) // len(self.domains)

    @property
    def is_general(self) -> bool:
        """Whether the features of the general network count; they then come after those of the other networks."""
        return any(self.general)

    def index_of(self, domain: str) -> int:
        """The index in `domains` of `domain`, or of the merged domain that it is a part of, as `a` is of `a + b`.

        Raises:
            UsageError: there is no such domain.
        """
        if domain in self.domains:
            return self.domains.index(domain)
        for index, name in enumerate(self.domains):
            if domain in name.split(JOINT):
                return index
        raise UsageError(f"the meta-model knows no domain {domain!r}; choose one of {', '.join(self.domains)}")

    def for_domain(self, domain: str) -> "DomainRecogniser":
        """A recogniser that takes every task to be of `domain`, whatever its images look like.

        Raises:
            UsageError: as `index_of`.
        """
        weight = torch.zeros_like(self.weight)
        weight[-1, self.index_of(domain)] = _CERTAIN
        return DomainRecogniser(self.domains, weight, self.general)

    def shares(self, support_features: Tensor) -> Tensor:
        """Shares of the domains in a task, [..., domains], summing to 1, from its support features [..., n, d].

        The images of a task are no independent evidence, as they may be unlike every domain in the same way. So the
        mean of their log-probabilities counts as that of three images, however many there are. A share below 2 % (of
        many domains, below half of an equal one) counts as none, and need not be computed with.
        """
        logits = normalised_inputs(support_features[..., : len(self.weight) - 1]) @ self.weight
        found = torch.softmax(_INDEPENDENT_IMAGES * torch.log_softmax(logits, -1).mean(-2), -1)
        least = min(_LEAST_SHARE, 0.5 / len(self.domains))
        found = torch.where(found < least, 0.0, found)
        return found / found.sum(-1, keepdim=True)

    def scale(self, shares: Tensor) -> Tensor:
        """Factors of the features, [..., d], of tasks of these `shares` [..., domains].

        The inner product of two features is then the mean of the networks', weighed by the shares.
        """
        general = torch.tensor(self.general).to(shares)
        of_networks = shares * (1 - general)
        if self.is_general:
            of_networks = torch.cat([of_networks, (shares * general).sum(-1, keepdim=True)], -1)
        return of_networks.sqrt().repeat_interleave(self.size, dim=-1)

    def weigh(self, support_features: Tensor) -> tuple[Tensor, Tensor]:
        """The `shares` of a task or of many, and the `scale` that follows from them."""
        shares = self.shares(support_features)
        return shares, self.scale(shares)


def fitted_recogniser(
    domains: Sequence[str], features: Sequence[Tensor], general: Sequence[float] | None = None
) -> DomainRecogniser:
    """Fit a recogniser by logistic regression on at most 6000 images, the same number of each domain.

    Args:
        domains: names.
        features: features [n, d] by the networks of all domains, side by side, of recovered images of each domain.
        general: see `DomainRecogniser`.

    Raises:
        UsageError: as `DomainRecogniser`.
    """
    count = min(_IMAGES // len(features), *map(len, features))
    chosen = [own[torch.linspace(0, len(own) - 1, count).long()] for own in features]
    labels = torch.arange(len(features)).repeat_interleave(count)
    targets = functional.one_hot(labels, len(features)).float()
    inputs = normalised_inputs(torch.cat(chosen).cpu().float())
    return DomainRecogniser(domains, logistic_regression(inputs, targets, _PENALTY, _STEPS), general)
