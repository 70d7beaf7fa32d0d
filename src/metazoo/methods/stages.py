"""The stages that methods are composed of. Each reads what is there, makes what is missing, and commits it."""

import contextlib
from collections.abc import Generator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from metazoo.bank import Bank, ResidentBanks
from metazoo.data.images import evenly_of_each
from metazoo.learn.group_learning import GroupLearner
from metazoo.learn.recipe import LearningRecipe
from metazoo.learn.student import Student
from metazoo.learn.views import Targets
from metazoo.methods.recipes import GroupingRecipe, MetaModelRecipe
from metazoo.methods.selection import Validation, record_selection, selecting_learner
from metazoo.methods.steps import LEARNING, learn_in_steps
from metazoo.methods.workspace import Workspace
from metazoo.models import ImageClassifier
from metazoo.recover import (
    GeneratorRecipe,
    RecoveryBudget,
    RecoveryRecipe,
    contact_sheet,
    health_rows,
    health_warning,
    recover_zoo,
)
from metazoo.run.compute import Compute
from metazoo.run.progress import message
from metazoo.run.threads import CALLING_THREAD, WorkerThreads
from metazoo.taskspace import (
    PUBLISHED_DECIMALS,
    PUBLISHED_EPSILON,
    FisherEmbeddings,
    Grouping,
    ImageNetProbe,
    ProbeRecipe,
    TaskEmbedding,
    dissimilarity_matrix,
    draw_members,
    group,
    group_quality,
    similarity_matrix,
    train_probe,
    write_embeddings,
)
from metazoo.zoo import WhiteBoxTeacher

BANK, HEALTH = "bank", "recovery.json"
EMBEDDINGS, DISTANCE, GROUPING = (
    "taskspace/fisher.safetensors",
    "taskspace/distance.safetensors",
    "taskspace/groups.json",
)
_STEPS_BETWEEN_CHECKPOINTS = 250
_STEPS_BETWEEN_METRICS = 25


def sheet_of(model: str) -> str:
    """Name in the run folder of the contact sheet of what was recovered from `model`."""
    return f"recovered/{model}.png"


def recover_images(workspace: Workspace, recipe: RecoveryRecipe | GeneratorRecipe, budget: RecoveryBudget) -> Bank:
    """Recover every teacher once; health figures, and contact sheets of what may be shown, go beside the bank."""
    folder = workspace.folder
    bank = Bank.open_or_create(folder.path / BANK)
    recover_zoo(
        workspace.zoo,
        bank,
        recipe,
        budget,
        workspace.seed,
        workers=workspace.workers,
        compute=workspace.compute,
        check=workspace.check,
        progress=workspace.progress,
    )
    if not folder.has(HEALTH):
        rows = health_rows(bank)
        for contract in workspace.shown:
            images, labels = bank.images_of(contract.name)
            row = next(row for row in rows if row.teacher == contract.name)
            contact_sheet(
                folder.path / sheet_of(contract.name),
                images,
                labels,
                contract.class_names,
                title=contract.name,
                note=f"{row.images} images recovered; the model itself recognises {100 * row.agreement:.0f} %",
            )
        warning = health_warning(rows)
        if warning is not None:
            message(f"warning: {warning}")
        folder.record(*(sheet_of(contract.name) for contract in workspace.shown))
        folder.write_json(HEALTH, {"format_version": 1, "teachers": [vars(row) for row in rows], "warning": warning})
    return bank


def check_probe(workspace: Workspace, recipe: ProbeRecipe) -> None:
    """Read the weights of a probe that is not trained here, before the hours that come before its use.

    Raises:
        UsageError: as `ImageNetProbe.load`.
    """
    if not recipe.trained and not workspace.folder.has(EMBEDDINGS):
        ImageNetProbe.load(recipe.weights)


def embed_and_group(
    workspace: Workspace, banks: ResidentBanks, probe_recipe: ProbeRecipe, grouping_recipe: GroupingRecipe
) -> Grouping:
    """Train the probe, embed every teacher, and group them."""
    folder, names = workspace.folder, [contract.name for contract in workspace.zoo]
    if not folder.has(GROUPING):
        if not folder.has(EMBEDDINGS):
            with contextlib.closing(_embeddings(workspace, banks, probe_recipe)) as embeddings:
                write_embeddings(folder.path / EMBEDDINGS, names, embeddings)
            folder.record(EMBEDDINGS)
        embeddings = FisherEmbeddings.load(folder.path / EMBEDDINGS, folder.sha256(EMBEDDINGS))
        distance = dissimilarity_matrix(_similarity(embeddings, grouping_recipe))
        grouping = group(distance, grouping_recipe.strategy, grouping_recipe.groups, keys=names, seed=workspace.seed)
        folder.write_tensors(DISTANCE, {"distance": distance})
        quality = group_quality(distance, grouping).as_record()
        workspace.metrics.truncate_after("grouping", 0)  # of a process killed before its next line
        workspace.metrics.append(stage="grouping", step=1, **quality)
        folder.write_json(GROUPING, {**grouping.as_record(names), "quality": quality})
    return Grouping.from_record(folder.read_json(GROUPING), names)


def _similarity(embeddings: FisherEmbeddings, recipe: GroupingRecipe) -> Tensor:
    if recipe.similarity == "published":
        return similarity_matrix(embeddings, absolute_epsilon=PUBLISHED_EPSILON, decimals=PUBLISHED_DECIMALS)
    return similarity_matrix(embeddings)


def _embeddings(
    workspace: Workspace, banks: ResidentBanks, recipe: ProbeRecipe
) -> Generator[TaskEmbedding, None, None]:
    counts = {contract.name: contract.spec.classes for contract in workspace.zoo}
    resident = banks.at(recipe.input_size, list(counts))
    steps = recipe.steps if recipe.trained else 0
    with workspace.progress_of("task space", steps + len(counts)) as advance:
        if recipe.trained:
            probe = train_probe(resident, counts, recipe, workspace.seed, after_step=advance)
        else:
            probe = ImageNetProbe.load(recipe.weights)
            probe.network.to(workspace.compute.device)
        for index, name in enumerate(counts):
            own = resident.places_of(index)
            images, labels = resident.images[own], resident.labels[own]
            shown = evenly_of_each(labels, recipe.fisher_images)
            yield probe.embed(name, images[shown], labels[shown], recipe)
            advance()


def learn_from_groups(
    workspace: Workspace,
    banks: ResidentBanks,
    grouping: Grouping,
    recipe: LearningRecipe,
    meta_model: MetaModelRecipe | ImageClassifier,
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
        recipe: of the learning.
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
        recipe=recipe,
        seed=workspace.seed,
        weights=weights,
        threads=threads,
        check=workspace.check,
    )
    learn = partial(
        learn_in_steps,
        workspace,
        steps=recipe.steps,
        stage=stage,
        steps_between_checkpoints=_STEPS_BETWEEN_CHECKPOINTS,
        steps_between_metrics=_STEPS_BETWEEN_METRICS,
    )
    if validation is None:
        plain = learner(lambda random: draw_members(grouping, recipe.teachers_per_step, random, weights=weights)[1])
        learn(plain)
        plain.calibrate()
    else:
        selecting = selecting_learner(learner, validation, grouping, recipe.teachers_per_step, weights, workspace.seed)
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
