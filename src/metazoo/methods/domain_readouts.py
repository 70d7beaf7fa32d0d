"""The stage that gives the meta-model a readout of every kind of images; see `metazoo.learn.readouts`."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from metazoo.bank import ResidentBank, ResidentBanks
from metazoo.learn.embedders import Embedder, MultiDomainClassifier
from metazoo.learn.readout_fitting import domain_kernel, domain_recogniser
from metazoo.learn.readouts import DomainReadouts
from metazoo.methods.workspace import Workspace
from metazoo.models import ImageClassifier
from metazoo.run.compute import Compute
from metazoo.run.randomness import generator


def with_readouts(
    workspace: Workspace,
    banks: ResidentBanks,
    classifier: ImageClassifier,
    kinds: Mapping[str, Sequence[int]],
    images: int,
    weights: Tensor | None,
) -> MultiDomainClassifier:
    """The meta-model with a readout of every kind of images.

    Args:
        workspace: see there.
        banks: of the images of all teachers.
        classifier: that has learned, on the CPU.
        kinds: the teachers (their places in the zoo) of each, two or more.
        images: of a kind to fit to, at most.
        weights: of the teachers, above 0, [teachers]; None if all count alike.
    """
    compute = workspace.compute
    teachers = workspace.zoo.teachers_in_turn(compute.device)
    bank = banks.at(classifier.spec.input_size, [contract.name for contract in workspace.zoo])
    embedder = classifier.to(compute.device)
    shown, kernels = [], []
    with torch.no_grad(), workspace.progress_of("readouts", len(workspace.zoo)) as advance:
        for kind, own in kinds.items():
            places = _places(bank, own, images)
            shown.append(_features(embedder, bank, places, Compute(compute.device)))
            said = _said(workspace, own, teachers, bank, places, advance)
            heard = [1.0] * len(own) if weights is None else weights[list(own)].tolist()
            random = generator(workspace.seed, "readouts", kind)
            kernels.append(domain_kernel(shown[-1], _classes(bank, places), said, heard, random))
        recogniser = domain_recogniser(shown)
    readouts = DomainReadouts([*kinds], torch.stack(kernels), recogniser)
    return MultiDomainClassifier(classifier.cpu(), readouts).eval()


def _places(bank: ResidentBank, teachers: Sequence[int], images: int) -> Tensor:
    """Places of at most so many images (but one of each teacher), the same number of each, evenly over its own."""
    parts = []
    for own in map(bank.places_of, teachers):
        count = min(own.stop - own.start, max(1, images // len(teachers)))
        parts.append(torch.linspace(own.start, own.stop - 1, count).long())
    return torch.cat(parts)


def _classes(bank: ResidentBank, places: Tensor) -> Tensor:
    """One whole number for each class of each teacher."""
    owners = torch.searchsorted(torch.tensor(bank.starts), places, right=True)
    return owners * (1 + int(bank.labels.max())) + bank.labels[places]


def _said(
    workspace: Workspace,
    indices: Sequence[int],
    teachers: Sequence[Embedder],
    bank: ResidentBank,
    places: Tensor,
    advance: Callable[[], object],
) -> Iterator[Tensor]:
    """Normalised features [n, any size] of the images at `places` by one teacher after the other."""
    for index in indices:
        workspace.check()
        yield functional.normalize(_features(teachers[index], bank, places, workspace.compute), dim=1)
        advance()


def _features(embedder: Embedder, bank: ResidentBank, places: Tensor, compute: Compute) -> Tensor:
    with compute.mixed():
        return torch.cat([embedder.features(bank.pixels(part)).float().cpu() for part in bank.in_parts(places)])
