"""The stage of meta-iterations: visit teachers of a group, join their gradients, and replay episodes."""

from collections.abc import Callable

import torch

from metazoo.bank import fitted
from metazoo.errors import UsageError
from metazoo.execution.randomness import generator
from metazoo.learn.episode_memory import EpisodeMemory
from metazoo.learn.regularisers import Regulariser
from metazoo.learn.replay_learning import ReplayLearner, ReplayLearningConfig
from metazoo.learn.update_rules import UpdateRule
from metazoo.models import ImageClassifier, build_classifier
from metazoo.pipeline.class_stage import check_ways
from metazoo.pipeline.shared_config import MetaModelConfig
from metazoo.pipeline.stepping import learn_in_steps
from metazoo.pipeline.visits import TeacherVisits
from metazoo.pipeline.workspace import Workspace
from metazoo.zoo import ClassIdentity, Zoo

# A checkpoint holds the whole memory, a hundred megabytes or more at the published length.
_SECONDS_BETWEEN_CHECKPOINTS = 120.0


def check_episodes(
    zoo: Zoo,
    identity: ClassIdentity,
    kept: tuple[int, str],
    config: ReplayLearningConfig,
    meta_model: MetaModelConfig,
) -> None:
    """Check that the memory can hold an episode.

    Args:
        zoo: the teachers.
        identity: classes of all teachers.
        kept: upper bound of the images per class of one teacher in the memory, and the option that raises it.
        config: options of the learning.
        meta_model: options of the meta-model.

    Raises:
        UsageError: a model has a single class, too few classes are known to differ, or too few images are kept.
    """
    single = next((contract.name for contract in zoo if contract.spec.classes < 2), None)
    if single is not None:
        raise UsageError(
            f"model {single!r}",
            "has 1 class, and a meta-iteration needs at least 2",
            f"remove it with `metazoo zoo remove {zoo.folder} {single}`",
        )
    replay, (images_kept, option) = config.replay, kept
    needed = replay.shots + replay.queries
    if images_kept < needed:
        raise UsageError(
            "learning.replay",
            f"an episode needs {needed} images per class, and the memory keeps {images_kept}",
            f"lower learning.replay.shots or learning.replay.queries, or raise {option}",
        )
    check_ways(identity, meta_model.ways)


def learn_by_replay(
    workspace: Workspace,
    visits_for: Callable[[ImageClassifier], TeacherVisits],
    config: ReplayLearningConfig,
    meta_model: MetaModelConfig,
    *,
    regulariser: Regulariser | None = None,
    update: UpdateRule | None = None,
) -> ImageClassifier:
    """Train the meta-model with its head by meta-iterations, and give it stored batch-norm statistics.

    Args:
        workspace: run at work; its zoo has the teachers.
        visits_for: function that makes the source of visits for the meta-model, which is trained in-place.
        config: options of the learning.
        meta_model: options of the meta-model.
        regulariser: regulariser of this stage; None: the regulariser of `config`.
        update: rule by which the visits move the parameters; None: the rule of `config`.
    """
    spec, device = meta_model.spec(workspace.zoo), workspace.compute.device
    classifier = build_classifier(spec, generator(workspace.seed, "meta-model", "weights"))
    # Second derivatives of convolutions are slower with channels last.
    classifier.to(device).to(memory_format=torch.contiguous_format)
    visits = visits_for(classifier)
    identity, stored = visits.identity, visits.stored
    memory = EpisodeMemory(len(identity.names), len(stored) or config.replay.slots, identity.conflicts, device=device)
    for teacher, (images, labels) in enumerate(stored):
        memory.add(fitted(images, spec.input_size), identity.of(teacher)[labels])
    learner = ReplayLearner(
        classifier,
        memory,
        visits,
        config,
        workspace.seed,
        grouping=visits.grouping,
        regulariser=regulariser,
        update=update,
        grows=not stored,
        threads=workspace.worker_threads(),
        check=workspace.check,
    )
    learn_in_steps(
        workspace,
        learner,
        config.iterations,
        steps_between_checkpoints=1,
        steps_between_metrics=1,
        seconds_between_checkpoints=_SECONDS_BETWEEN_CHECKPOINTS,
    )
    visits.finish()
    learner.calibrate()
    return classifier.cpu().to(memory_format=torch.channels_last).eval().requires_grad_(False)
