"""Recognition of the domains of a new task, for a meta-model with one network per domain.

A network trained on one domain serves that domain better than one network for all: what distinguishes two traffic signs
is irrelevant variation between two animals. A linear classifier, trained on the recovered images of the domains,
recognises the domains that support images resemble, and the task uses the features of their networks. A per-domain
network made from few models generalises little beyond them, so the general network can have a share as well.

SUR (Dvornik et al. 2020) selects among networks of many domains by gradient descent on the support, and URL (Li et al.
2021) distils them into one; both use real images of the domains. Deviations: only recovered images are used, and the
selection is by the appearance of the images, so that one image per class is enough.
"""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from metazoo.errors import UsageError
from metazoo.features.linear_models import logistic_regression, normalised_inputs

JOINT = " + "
"""Separator of domain names in the name of a merged domain."""
_INDEPENDENT_IMAGES = 3
_LEAST_SHARE = 0.02
_CERTAIN = 1e4
_PENALTY, _IMAGES, _STEPS = 0.3, 6000, 300


@final
class DomainRecogniser(nn.Module):
    """Linear classifier of the domains of a task, on the concatenated features of all per-domain networks.

    Args:
        domains: names of the domains, at least two, all different.
        weight: float [d + 1, domains], from the `normalised_inputs` of concatenated features [n, d] to the logits of
            the domains.
        general: share of the general network in each domain, in [0, 1]; the per-domain network has the rest. None for
            no general network.

    Raises:
        UsageError: shapes or names do not fit, or a share is out of range.
    """

    def __init__(self, domains: Sequence[str], weight: Tensor, general: Sequence[float] | None = None) -> None:
        super().__init__()
        self.domains = tuple(domains)
        self.general = (0.0,) * len(self.domains) if general is None else tuple(general)
        count = len(self.domains)
        if count < 2 or len(set(self.domains)) < count:
            raise UsageError("domains", f"{list(domains)}", "give at least two, all different")
        if weight.ndim != 2 or weight.shape[1] != count or weight.shape[0] % count != 1:
            raise UsageError("weight", f"shape {list(weight.shape)}, not [{count} * d + 1, {count}]")
        if len(self.general) != count or not all(0 <= share <= 1 for share in self.general):
            raise UsageError("general", f"{list(self.general)}, not {count} shares in [0, 1]")
        self.weight = nn.Buffer(weight)

    @property
    def size(self) -> int:
        """Number of features of one network."""
        return len(self.weight) // len(self.domains)

    @property
    def is_general(self) -> bool:
        """Whether the general network has a share; its features then come after those of the other networks."""
        return any(self.general)

    def index_of(self, domain: str) -> int:
        """Index of a domain, or of the merged domain that contains it, as `a + b` contains `a`.

        Raises:
            UsageError: the domain is unknown.
        """
        if domain in self.domains:
            return self.domains.index(domain)
        for index, name in enumerate(self.domains):
            if domain in name.split(JOINT):
                return index
        raise UsageError(f"domain {domain!r}", "unknown to this meta-model", f"choose one of {', '.join(self.domains)}")

    def for_domain(self, domain: str) -> "DomainRecogniser":
        """Recogniser that assigns every task to a known domain, whatever its images look like.

        Raises:
            UsageError: the domain is unknown.
        """
        weight = torch.zeros_like(self.weight)
        weight[-1, self.index_of(domain)] = _CERTAIN
        return DomainRecogniser(self.domains, weight, self.general)

    def shares(self, support_features: Tensor) -> Tensor:
        """Shares of the domains in a task, [..., domains], summing to 1, from its support features [..., n, d].

        The images of a task are not independent evidence, as they may differ from every domain in the same way. So the
        mean of their log-probabilities counts as three images, however many there are. Shares below 2 %, or below half
        of an equal share if that is less, are set to zero, so that their networks need not be computed.
        """
        logits = normalised_inputs(support_features[..., : len(self.weight) - 1]) @ self.weight
        found = torch.softmax(_INDEPENDENT_IMAGES * torch.log_softmax(logits, -1).mean(-2), -1)
        least = min(_LEAST_SHARE, 0.5 / len(self.domains))
        found = torch.where(found < least, 0.0, found)
        return found / found.sum(-1, keepdim=True)

    def scale(self, shares: Tensor) -> Tensor:
        """Factors of the features, [..., d], for tasks with these `shares` [..., domains].

        The inner product of two scaled features is the mean over the networks, weighted by the shares.
        """
        general = torch.tensor(self.general).to(shares)
        of_networks = shares * (1 - general)
        if self.is_general:
            of_networks = torch.cat([of_networks, (shares * general).sum(-1, keepdim=True)], -1)
        return of_networks.sqrt().repeat_interleave(self.size, dim=-1)

    def weigh(self, support_features: Tensor) -> tuple[Tensor, Tensor]:
        """Shares of the domains in one or many tasks, and the factors of the features; see `shares` and `scale`."""
        shares = self.shares(support_features)
        return shares, self.scale(shares)


def fitted_recogniser(
    domains: Sequence[str], features: Sequence[Tensor], general: Sequence[float] | None = None
) -> DomainRecogniser:
    """Fit a recogniser by logistic regression on at most 6000 images, the same number of each domain.

    Args:
        domains: names of the domains.
        features: features [n, d] of the recovered images of each domain, concatenated over all per-domain networks.
        general: shares of the general network; see `DomainRecogniser`.

    Raises:
        UsageError: shapes or names do not fit; see `DomainRecogniser`.
    """
    count = min(_IMAGES // len(features), *map(len, features))
    chosen = [own[torch.linspace(0, len(own) - 1, count).long()] for own in features]
    labels = torch.arange(len(features)).repeat_interleave(count)
    targets = functional.one_hot(labels, len(features)).float()
    inputs = normalised_inputs(torch.cat(chosen).cpu().float())
    return DomainRecogniser(domains, logistic_regression(inputs, targets, _PENALTY, _STEPS), general)
