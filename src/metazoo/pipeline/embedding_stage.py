"""The stage that embeds every teacher in the task space and groups the teachers."""

import contextlib
from collections.abc import Generator

from torch import Tensor

from metazoo.bank import ResidentBanks
from metazoo.data.images import evenly_of_each
from metazoo.pipeline.layout import DISTANCE, EMBEDDINGS, GROUPING
from metazoo.pipeline.options import GroupingConfig
from metazoo.pipeline.workspace import Workspace
from metazoo.taskspace import (
    PUBLISHED_DECIMALS,
    PUBLISHED_EPSILON,
    FisherEmbeddings,
    ImageNetProbe,
    Partition,
    ProbeConfig,
    TaskEmbedding,
    dissimilarity_matrix,
    group,
    group_quality,
    similarity_matrix,
    train_probe,
    write_embeddings,
)


def check_probe(workspace: Workspace, config: ProbeConfig) -> None:
    """Read the weights of a probe that is not trained here, before the hours that come before its use.

    Raises:
        UsageError: as `ImageNetProbe.load`.
    """
    if not config.trained and not workspace.folder.has(EMBEDDINGS):
        ImageNetProbe.load(config.weights)


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
        embeddings = FisherEmbeddings.load(folder.path / EMBEDDINGS, folder.sha256(EMBEDDINGS))
        distance = dissimilarity_matrix(_similarity(embeddings, grouping_config))
        grouping = group(distance, grouping_config.strategy, grouping_config.groups, keys=names, seed=workspace.seed)
        folder.write_tensors(DISTANCE, {"distance": distance})
        quality = group_quality(distance, grouping).as_record()
        workspace.metrics.truncate_after("grouping", 0)  # of a process killed before its next line
        workspace.metrics.append(stage="grouping", step=1, **quality)
        folder.write_json(GROUPING, {**grouping.as_record(names), "quality": quality})
    return Partition.from_record(folder.read_json(GROUPING), names)


def _similarity(embeddings: FisherEmbeddings, config: GroupingConfig) -> Tensor:
    if config.similarity == "published":
        return similarity_matrix(embeddings, absolute_epsilon=PUBLISHED_EPSILON, decimals=PUBLISHED_DECIMALS)
    return similarity_matrix(embeddings)


def _embeddings(
    workspace: Workspace, banks: ResidentBanks, config: ProbeConfig
) -> Generator[TaskEmbedding, None, None]:
    counts = {contract.name: contract.spec.classes for contract in workspace.zoo}
    resident = banks.at(config.input_size, list(counts))
    steps = config.steps if config.trained else 0
    with workspace.progress_of("task space", steps + len(counts)) as advance:
        if config.trained:
            probe = train_probe(resident, counts, config, workspace.seed, after_step=advance)
        else:
            probe = ImageNetProbe.load(config.weights)
            probe.network.to(workspace.compute.device)
        for index, name in enumerate(counts):
            own = resident.places_of(index)
            images, labels = resident.images[own], resident.labels[own]
            shown = evenly_of_each(labels, config.fisher_images)
            yield probe.embed(name, images[shown], labels[shown], config)
            advance()
