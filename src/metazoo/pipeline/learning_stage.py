"""The stage that trains the meta-model on groups of teachers."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from metazoo.bank import ResidentBanks
from metazoo.execution.compute import Compute
from metazoo.execution.threads import CALLING_THREAD, WorkerThreads
from metazoo.learn.augmented_images import Targets
from metazoo.learn.group_learning import GroupLearner, Student
from metazoo.learn.learning_config import LearningConfig
from metazoo.learn.regularisers import Regulariser
from metazoo.learn.update_rules import UpdateRule
from metazoo.pipeline.shared_config import MetaModelConfig
from metazoo.pipeline.stepping import LEARNING, learn_in_steps
from metazoo.pipeline.workspace import Workspace
from metazoo.taskspace import Grouping
from metazoo.zoo import WhiteBoxTeacher

_STEPS_BETWEEN_CHECKPOINTS = 250
_STEPS_BETWEEN_METRICS = 25


def learn_from_groups(
    workspace: Workspace,
    banks: ResidentBanks,
    grouping: Grouping,
    config: LearningConfig,
    meta_model: MetaModelConfig | Student,
    weights: Tensor | None = None,
    *,
    regulariser: Regulariser | None = None,
    update: UpdateRule | None = None,
    stage: str = LEARNING,
) -> Student:
    """Train the meta-model on groups of teachers, and give it stored batch-norm statistics.

    The meta-model is the attribute `classifier` of the result, which also has the maps to the teachers' outputs. The
    result is on the CPU in evaluation mode, and no parameter of the classifier requires a gradient.

    Args:
        workspace: run at work; its zoo has the teachers.
        banks: images of all teachers.
        grouping: groups of the teachers.
        config: options of the learning.
        meta_model: options of the meta-model, or a student of the same teachers to train further.
        weights: weights of the teachers, above 0, [teachers]; None if all count alike.
        regulariser: regulariser of this stage; None: the regulariser of `config`.
        update: rule by which a step moves the parameters; None: the rule of `config`.
        stage: name of the stage, unique in the run.
    """
    compute, threads = workspace.compute, workspace.worker_threads()
    teachers = workspace.zoo.teachers_in_turn(compute.device)
    student = meta_model
    if isinstance(student, MetaModelConfig):
        student = Student(
            student.spec(workspace.zoo),
            [teacher.classifier.network.feature_size for teacher in teachers],
            [contract.spec.classes for contract in workspace.zoo],
            workspace.seed,
        )
    student.to(compute.device)
    resident = banks.to_learn_from(student.classifier.spec.input_size, [contract.name for contract in workspace.zoo])
    learner = GroupLearner(
        student,
        resident,
        grouping,
        teacher_targets(teachers, compute, threads),
        config,
        workspace.seed,
        weights=weights,
        regulariser=regulariser,
        update=update,
        threads=threads,
        check=workspace.check,
    )
    learn_in_steps(
        workspace,
        learner,
        config.steps,
        stage=stage,
        steps_between_checkpoints=_STEPS_BETWEEN_CHECKPOINTS,
        steps_between_metrics=_STEPS_BETWEEN_METRICS,
    )
    learner.calibrate()
    student.cpu().eval().classifier.requires_grad_(False)
    return student


def teacher_targets(
    teachers: Sequence[WhiteBoxTeacher], compute: Compute, threads: WorkerThreads = CALLING_THREAD
) -> Targets:
    """Function from images to the normalised features and the logits of all teachers; see `Targets`."""

    def targets(images: Tensor) -> tuple[Tensor, Tensor]:
        def outputs(teacher: WhiteBoxTeacher) -> tuple[Tensor, Tensor]:
            with compute.mixed():
                own = teacher.features(images)
            own = own.float()
            return functional.normalize(own, dim=1), teacher.classifier.network.head(own)

        features, logits = zip(*threads.map(outputs, teachers), strict=True)
        return torch.cat(features, 1), torch.cat(logits, 1)

    return targets
