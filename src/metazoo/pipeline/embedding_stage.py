"""The stage that embeds every teacher in the task space and groups the teachers."""

import contextlib
import functools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from metazoo.bank import Bank, ResidentBank, ResidentBanks
from metazoo.data.images import evenly_of_each
from metazoo.execution.executor import in_order
from metazoo.execution.process_memory import give_back_memory
from metazoo.execution.randomness import generator, seed_of
from metazoo.models import build_classifier
from metazoo.pipeline.layout import DISTANCE, EMBEDDINGS, GROUPING, PROBE
from metazoo.pipeline.shared_config import GroupingConfig
from metazoo.pipeline.workspace import Workspace
from metazoo.storage.tensor_files import read_tensors
from metazoo.taskspace import (
    PUBLISHED_DECIMALS,
    PUBLISHED_EPSILON,
    FisherEmbeddings,
    FixedGrouping,
    Grouping,
    ImageNetProbe,
    Partition,
    Probe,
    ProbeConfig,
    TaskEmbedding,
    dissimilarity_matrix,
    group,
    group_quality,
    similarity_matrix,
    train_probe,
    write_embeddings,
)
from metazoo.taskspace.probe import probe_spec

GroupingOf = Callable[[Sequence[int]], Grouping]
"""Function from indices of teachers to a grouping of these teachers, which are numbered by their positions."""


def check_probe(workspace: Workspace, config: ProbeConfig) -> None:
    """Check the weights of a probe that is not trained here, before any long stage.

    Raises:
        UsageError: the weights cannot be used; see `ImageNetProbe.load`.
    """
    if not config.trained and not workspace.folder.has(EMBEDDINGS):
        ImageNetProbe.load(config.weights)


def group_teachers(
    workspace: Workspace, banks: ResidentBanks, probe_config: ProbeConfig, grouping_config: GroupingConfig
) -> GroupingOf:
    """Make the groupings of a run: its groups in the task space, or groups that change while the meta-model learns."""
    if grouping_config.by_distances:
        return parts_of(embed_and_group(workspace, banks, probe_config, grouping_config))

    def changing(indices: Sequence[int]) -> Grouping:
        grouping = grouping_config.changing(len(indices))
        assert grouping is not None
        return grouping

    return changing


def parts_of(partition: Partition) -> GroupingOf:
    """Groupings whose groups are those of `partition` at every step."""
    return lambda indices: FixedGrouping(partition.within(indices))


def embed_and_group(
    workspace: Workspace, banks: ResidentBanks, probe_config: ProbeConfig, grouping_config: GroupingConfig
) -> Partition:
    """Train the probe, embed every teacher, and group them."""
    folder, names = workspace.folder, [contract.name for contract in workspace.zoo]
    if not folder.has(GROUPING):
        if not folder.has(EMBEDDINGS):
            with contextlib.closing(_embeddings(workspace, banks, probe_config)) as embeddings:
                write_embeddings(folder.path / EMBEDDINGS, names, embeddings)
            folder.record(EMBEDDINGS)
        folder.delete(PROBE)
        embeddings = FisherEmbeddings.load(folder.path / EMBEDDINGS, folder.sha256(EMBEDDINGS))
        distance = dissimilarity_matrix(_similarity(embeddings, grouping_config))
        grouping = grouped(distance, grouping_config, names, workspace.seed)
        folder.write_tensors(DISTANCE, {"distance": distance})
        quality = group_quality(distance, grouping).as_record()
        workspace.metrics.truncate_after("grouping", 0)  # a killed process may have left this line
        workspace.metrics.append(stage="grouping", step=1, **quality)
        folder.write_json(GROUPING, {**grouping.as_record(names), "quality": quality})
    return Partition.from_record(folder.read_json(GROUPING), names)


def grouped(distance: Tensor, config: GroupingConfig, names: list[str], seed: int) -> Partition:
    """Group the teachers by their dissimilarities, float [N, N]; the control `shuffle` permutes the teachers first."""
    if config.shuffle:
        order = torch.randperm(len(names), generator=generator(seed, "grouping", "shuffle"))
        distance = distance[order][:, order]
    return group(distance, config.strategy, config.groups, keys=names, seed=seed_of(seed, "grouping", config.strategy))


def _similarity(embeddings: FisherEmbeddings, config: GroupingConfig) -> Tensor:
    if config.similarity == "published":
        return similarity_matrix(embeddings, absolute_epsilon=PUBLISHED_EPSILON, decimals=PUBLISHED_DECIMALS)
    return similarity_matrix(embeddings)


@dataclass(frozen=True)
class _ProbeFile:
    """File with the weights of a probe, and the numbers of classes by teacher."""

    path: Path
    sha256: str | None
    config: ProbeConfig
    class_counts: tuple[tuple[str, int], ...]
    device: str


@dataclass(frozen=True)
class _Task:
    """A unit of work: the embedding of one teacher."""

    name: str
    bank: Path
    probe: _ProbeFile


@functools.lru_cache(maxsize=1)
def _probe(file: _ProbeFile) -> Probe | ImageNetProbe:
    """Probe of a file, which each process reads once."""
    if not file.config.trained:
        probe = ImageNetProbe.load(file.path)
        probe.network.to(file.device)
        return probe
    counts = dict(file.class_counts)
    classifier = build_classifier(probe_spec(file.config, sum(counts.values())), torch.Generator())
    classifier.load_state_dict(read_tensors(file.path, file.sha256))
    return Probe(classifier.to(file.device).eval(), counts)


def _embedding(task: _Task) -> TaskEmbedding:
    config, device = task.probe.config, task.probe.device
    resident = ResidentBank.load(Bank.open(task.bank, [task.name]), [task.name], config.input_size).to(device)
    shown = evenly_of_each(resident.labels, config.fisher_images)
    found = _probe(task.probe).embed(task.name, resident.images[shown], resident.labels[shown], config)
    give_back_memory(torch.device(device))
    return TaskEmbedding(found.name, {name: values.cpu() for name, values in found.tensors.items()})


def _embeddings(
    workspace: Workspace, banks: ResidentBanks, config: ProbeConfig
) -> Generator[TaskEmbedding, None, None]:
    folder, device = workspace.folder, workspace.compute.device
    counts = {contract.name: contract.spec.classes for contract in workspace.zoo}
    steps = config.steps if config.trained and not folder.has(PROBE) else 0
    with workspace.progress_of("task space", steps + len(counts)) as advance:
        path, sha256 = Path(config.weights or ""), None
        if config.trained:
            if not folder.has(PROBE):
                trained = train_probe(
                    banks.at(config.input_size, list(counts)), counts, config, workspace.seed, after_step=advance
                )
                folder.write_tensors(PROBE, trained.classifier.state_dict())
            path, sha256 = folder.path / PROBE, folder.sha256(PROBE)
        file = _ProbeFile(path.absolute(), sha256, config, tuple(counts.items()), device)
        tasks = [_Task(name, banks.bank.folder.absolute(), file) for name in counts]
        results = workspace.executor.map(
            _embedding,
            tasks,
            name_of=lambda task: f"the embedding of model {task.name!r}",
            threads=torch.get_num_threads(),
            short=True,
            check=workspace.check,
        )
        try:
            for embedding in in_order(results):
                yield embedding
                advance()
        finally:
            results.close()
            _probe.cache_clear()
