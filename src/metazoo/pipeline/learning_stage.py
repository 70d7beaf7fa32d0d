"""The stage that trains the meta-model on groups of teachers."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from metazoo.bank import ResidentBanks
from metazoo.execution.compute import Compute
from metazoo.execution.threads import CALLING_THREAD, WorkerThreads
from metazoo.learn.group_learning import GroupLearner, Student
from metazoo.learn.learning_config import LearningConfig
from metazoo.learn.views import Targets
from metazoo.models import ImageClassifier
from metazoo.pipeline.options import MetaModelConfig
from metazoo.pipeline.selection_stage import Validation, record_selection, selecting_learner
from metazoo.pipeline.stepping import LEARNING, learn_in_steps
from metazoo.pipeline.workspace import Workspace
from metazoo.taskspace import Partition, draw_members
from metazoo.zoo import WhiteBoxTeacher

_STEPS_BETWEEN_CHECKPOINTS = 250
_STEPS_BETWEEN_METRICS = 25


def learn_from_groups(
    workspace: Workspace,
    banks: ResidentBanks,
    grouping: Partition,
    config: LearningConfig,
    meta_model: MetaModelConfig | ImageClassifier,
    weights: Tensor | None = None,
    validation: Validation | None = None,
    *,
    stage: str = LEARNING,
) -> ImageClassifier:
    """Train the meta-model on groups of teachers, and give it stored batch-norm statistics.

    Args:
        workspace: see there.
        banks: of the images of all teachers.
        grouping: of the teachers.
        config: of the learning.
        meta_model: what is trained, or a meta-model to go on from, which is left as it is.
        weights: of the teachers, above 0, [teachers]; None if all count alike.
        validation: which images say what teachers to learn from; None draws them by `weights`.
        stage: what this learning is called among others of the run.
    """
    spec = meta_model.spec if isinstance(meta_model, ImageClassifier) else meta_model.spec(workspace.zoo)
    compute, threads = workspace.compute, workspace.worker_threads()
    teachers = workspace.zoo.teachers_in_turn(compute.device)
    resident = banks.at(spec.input_size, [contract.name for contract in workspace.zoo])
    student = Student(
        spec,
        [teacher.classifier.network.feature_size for teacher in teachers],
        [contract.spec.classes for contract in workspace.zoo],
        workspace.seed,
    )
    if isinstance(meta_model, ImageClassifier):
        student.classifier.load_state_dict(meta_model.state_dict())
    student.to(compute.device)
    learner = partial(
        GroupLearner,
        student,
        resident,
        grouping.groups,
        targets=teacher_targets(teachers, compute, threads),
        config=config,
        seed=workspace.seed,
        weights=weights,
        threads=threads,
        check=workspace.check,
    )
    learn = partial(
        learn_in_steps,
        workspace,
        steps=config.steps,
        stage=stage,
        steps_between_checkpoints=_STEPS_BETWEEN_CHECKPOINTS,
        steps_between_metrics=_STEPS_BETWEEN_METRICS,
    )
    if validation is None:
        plain = learner(lambda random: draw_members(grouping, config.teachers_per_step, random, weights=weights)[1])
        learn(plain)
        plain.calibrate()
    else:
        selecting = selecting_learner(learner, validation, grouping, config.teachers_per_step, weights, workspace.seed)
        learn(selecting)
        record_selection(workspace.folder, workspace.zoo, selecting)
        selecting.learner.calibrate()
    return student.classifier.cpu().eval().requires_grad_(False)


def teacher_targets(
    teachers: Sequence[WhiteBoxTeacher], compute: Compute, threads: WorkerThreads = CALLING_THREAD
) -> Targets:
    """What the whole zoo says of images: every teacher's normalised features, and its logits; see `Targets`."""

    def targets(images: Tensor) -> tuple[Tensor, Tensor]:
        def says(teacher: WhiteBoxTeacher) -> tuple[Tensor, Tensor]:
            with compute.mixed():
                own = teacher.features(images)
            own = own.float()
            return functional.normalize(own, dim=1), teacher.classifier.network.head(own)

        features, logits = zip(*threads.map(says, teachers), strict=True)
        return torch.cat(features, 1), torch.cat(logits, 1)

    return targets
