"""Which domains a new task is of, for a meta-model that has a specialist of each.

One network cannot serve every domain as well as a network of each domain serves its own: what tells two traffic signs
apart varies for no reason between two animals. A new task takes the features of the specialists whose domain its
support images look like, by what tells the domains' recovered images apart. A specialist of few models knows little but
these; so beside it stands, by a share of its own, the general network that it has come from.

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
"""Between the names of domains that are one kind of images."""
_INDEPENDENT_IMAGES = 3
_LEAST_SHARE = 0.02
_CERTAIN = 1e4
_PENALTY, _IMAGES, _STEPS = 0.3, 6000, 300


@final
class DomainRecogniser(nn.Module):
    """What tells apart the domains that a meta-model has specialists of.

    Args:
        domains: their names, at least two, all different.
        weight: float [d + 1, domains], from the `normalised_inputs` of the specialists' features [n, d], side by side,
            to the logits of the domains.
        general: of each domain the share of the general network's features, whose specialist has the rest, in [0, 1];
            None for none.

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
        """Of one specialist's features."""
        return len(self.weight) // len(self.domains)

    @property
    def is_general(self) -> bool:
        """Whether the general network's features count, which then stand after the specialists'."""
        return any(self.general)

    def place_of(self, domain: str) -> int:
        """The place of `domain` in `domains`, or of the one that it is a part of, as `a` is of `a + b`.

        Raises:
            UsageError: there is no such domain.
        """
        if domain in self.domains:
            return self.domains.index(domain)
        for place, name in enumerate(self.domains):
            if domain in name.split(JOINT):
                return place
        raise UsageError(f"the meta-model knows no domain {domain!r}; choose one of {', '.join(self.domains)}")

    def told(self, domain: str) -> "DomainRecogniser":
        """The same for tasks that are known to be of `domain`, whatever their images look like.

        Raises:
            UsageError: as `place_of`.
        """
        weight = torch.zeros_like(self.weight)
        weight[-1, self.place_of(domain)] = _CERTAIN
        return DomainRecogniser(self.domains, weight, self.general)

    def shares(self, support_features: Tensor) -> Tensor:
        """How much a task is of each domain: [..., domains], summing to 1, from its support's features [..., n, d].

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
        """What the features of tasks of these `shares` [..., domains] are multiplied by: [..., d].

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
    """Logistic regression of the domain; domains count alike. Of more than 6000 images so many are used, spread evenly.

    Args:
        domains: their names.
        features: of the specialists, of recovered images of each domain, [n, d].
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
