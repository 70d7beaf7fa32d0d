"""Which domains of a zoo are of one kind, without data: whether their models tell each other's classes apart.

A domain is a name in a contract, and people name finely: three scripts, or every partner's photographs. If models of
one name tell the recovered classes of another apart nearly as well as that one's own models do, the two show one kind
of images. (Measured: three scripts 0.90 to 0.98 in the worse direction; CIFAR-FS, groceries and traffic signs 0.51 to
0.72.)
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def merge_domains(skill: Tensor, domains: Sequence[str], alike: float) -> list[tuple[str, ...]]:
    """Put domains together, the two most alike ones first, as long as there are two that are alike enough.

    Two kinds are alike by as much as the mean skill of each one's models on the other's images is of the other's own
    models there, in the worse direction. Where one of the four means is not known, as of a domain of a single model,
    they are not alike.

    Args:
        skill: see `trust_of`, [N, N].
        domains: of the N models.
        alike: a share, above 0.

    Returns:
        A partition of the names; kinds in the order of their first names among `domains`.
    """
    members = {(name,): [index for index, own in enumerate(domains) if own == name] for name in dict.fromkeys(domains)}
    while len(members) > 1:
        kinds = list(members)
        means = torch.stack(
            [torch.stack([skill[members[of]][:, members[by]].nanmean() for by in kinds]) for of in kinds]
        )
        shares = means / means.diagonal()[:, None]
        closest = (
            torch.minimum(shares, shares.T).fill_diagonal_(-torch.inf).nan_to_num(-torch.inf, -torch.inf, -torch.inf)
        )
        place = int(closest.argmax())
        first, second = sorted(divmod(place, len(kinds)))
        if float(closest[first, second]) < alike:
            break
        joined = {kinds[first] + kinds[second]: members[kinds[first]] + members[kinds[second]]}
        kept = {kind: own for kind, own in members.items() if kind not in (kinds[first], kinds[second])}
        members = dict(sorted({**kept, **joined}.items(), key=lambda item: domains.index(item[0][0])))
    return list(members)
