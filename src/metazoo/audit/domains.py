"""Merging of the domains of a zoo, without data, by how well their models distinguish each other's classes.

A domain is a name in a contract, and names may be too fine, such as three scripts or the photographs of each partner.
Two domains are merged if the models of each distinguish the recovered classes of the other nearly as well as its own
models do. (Measured: three scripts 0.90 to 0.98 in the worse direction; CIFAR-FS, groceries and traffic signs 0.51 to
0.72.)
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def merge_domains(skill: Tensor, domains: Sequence[str], alike: float) -> list[tuple[str, ...]]:
    """Merge the two most similar domains, repeatedly, while their similarity is at least `alike`.

    The similarity of two domains is the mean skill of the models of one on the images of the other, relative to the
    mean skill of that domain's own models, in the worse direction. If one of the four means is unknown, as for a domain
    of a single model, the two are not merged.

    Args:
        skill: skills of the models on each other's images, [N, N]; see `trust_of`.
        domains: domains of the N models.
        alike: least similarity of domains that are merged, above 0.

    Returns:
        Partition of the names; merged domains in the order of their first names in `domains`.
    """
    members = {(name,): [index for index, own in enumerate(domains) if own == name] for name in dict.fromkeys(domains)}
    while len(members) > 1:
        merged = list(members)
        means = torch.stack(
            [torch.stack([skill[members[of]][:, members[by]].nanmean() for by in merged]) for of in merged]
        )
        shares = means / means.diagonal()[:, None]
        closest = (
            torch.minimum(shares, shares.T).fill_diagonal_(-torch.inf).nan_to_num(-torch.inf, -torch.inf, -torch.inf)
        )
        row, column = sorted(divmod(int(closest.argmax()), len(merged)))
        if float(closest[row, column]) < alike:
            break
        first, second = merged[row], merged[column]
        joined = {first + second: members[first] + members[second]}
        kept = {names: own for names, own in members.items() if names not in (first, second)}
        members = dict(sorted({**kept, **joined}.items(), key=lambda item: domains.index(item[0][0])))
    return list(members)
