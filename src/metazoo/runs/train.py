"""Training a meta-model from a zoo."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metazoo.adapt import MetaModel
from metazoo.adapt.card import meta_model_card
from metazoo.adapt.card_text import is_validated, unlabelled_count
from metazoo.data import ImageSet, UnlabelledImages
from metazoo.errors import RunError, UsageError
from metazoo.execution.compute import Compute
from metazoo.execution.executor import Executor, ExecutorName, executor_for
from metazoo.execution.signals import graceful
from metazoo.execution.threads import torch_threads
from metazoo.methods.base import check_before_work, unlabelled_options
from metazoo.pipeline.layout import (
    BACKBONE,
    DESCRIPTION,
    FINISHED,
    GROUPING,
    HEALTH,
    META_MODEL,
    METRICS,
    TRUST,
    UNLABELLED,
)
from metazoo.pipeline.privacy import discard_images, hide_images
from metazoo.pipeline.recovery_stage import copy_images
from metazoo.pipeline.workspace import OnStep, Workspace
from metazoo.renamed import renamed_arguments
from metazoo.runs.config import RunConfig, resolve_config
from metazoo.runs.description import begin, begun_config, check_run_folder, recorded_compute
from metazoo.runs.record import Run
from metazoo.runs.tracked import tracked_run
from metazoo.storage.lock import exclusive
from metazoo.storage.metrics import MetricsLog
from metazoo.storage.run_folder import RunFolder
from metazoo.tracking import check_trackers
from metazoo.tracking.following import followed
from metazoo.zoo import Zoo, zoo_with_models

# Small layers gain little from more threads, and wait much longer if another program needs a core.
_THREADS = 1
_CARD_RECORDS = {"health": HEALTH, "trust": TRUST, "groups": GROUPING, "backbone": BACKBONE}


@renamed_arguments(setting="preset")
def train(
    zoo: Zoo | Path | str,
    method: str | None = None,
    *,
    out: Path | str,
    preset: str | None = None,
    config: Mapping[str, Any] | Path | str | None = None,
    seed: int | None = None,
    resume: bool = False,
    workers: int | None = None,
    executor: Executor | ExecutorName = "local",
    threads: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    progress: bool = False,
    images: bool = True,
    reuse_images: Run | Path | str | None = None,
    unlabelled: ImageSet | Path | str | None = None,
    track: str | Sequence[str] = (),
    on_step: OnStep | None = None,
) -> Run:
    """Learn one meta-model from a zoo, without data or with unlabelled images.

    The command line keeps freed memory, which makes learning of small networks on the CPU several times faster;
    elsewhere call `metazoo.execution.process_memory.keep_freed_memory` once before training.

    On the CPU, a run that was interrupted or killed and then resumed ends bit-equal to an uninterrupted one.

    Args:
        zoo: zoo or its folder.
        method: learning method; None: `config` names it, else `tgr`.
        out: run folder, made if missing.
        preset: preset of the method; None: `config` names it, else `default`.
        config: options that differ from the preset, see `resolve_config`; None: a resumed run keeps its options.
        seed: seed of all randomness; None: `config` names it, else 0.
        resume: whether to continue the run in `out`, if there is one.
        workers: number of processes for independent work and, on the CPU, of learning threads, each with its own
            networks; None: one per core, at most 4 on a GPU. It does not affect results.
        executor: executor of independent work: `local`, `ray` (needs the extra), or an `Executor`, which stays open. It
            does not affect results.
        threads: torch threads of learning, shared out among the worker threads; None: 1, which suits networks as small
            as Conv4. It is recorded; a resumed run keeps it.
        device: `cpu`, `cuda` or `cuda:1`; None: the first GPU, else the CPU. It is recorded; a resumed run keeps it
            unless another one is given, which rounds differently.
        precision: `float32` or `bfloat16`, see `Compute`; None: `bfloat16` on a GPU, else `float32`. It is recorded;
            a resumed run keeps it unless another one is given.
        progress: whether to report progress on standard error.
        images: whether to make contact sheets of recovered images, where the contracts of the models allow it. It is
            recorded; a resumed run keeps it. Every call obeys the current contracts: with `resume`, it deletes images
            that are now forbidden, also in a finished run.
        reuse_images: another run with the same zoo, seed and recovery options, whose recovered images are copied. The
            result is the same as with own recovery.
        unlabelled: images whose labels are unknown or ignored: a folder with images at any depth, a pack, a published
            data set, or an image set. The run is then label-free, not data-free; see the options `unlabelled` of the
            method. They are copied into the run folder until it has finished; afterwards only their hashes are kept. A
            resumed run needs them again only if it had not copied them all.
        track: trackers that show the run while it learns: `tensorboard`, `trackio`, `mlflow` (each needs the extra of
            its name) or those of other packages, also as `NAME:TARGET`; see `metazoo.tracking`. They do not affect
            results: one that fails gives a warning. If they are given again, a resumed run continues the tracked run.
        on_step: function that is called with a `metazoo.LearningStep` after every step of learning, for example to
            measure the meta-model while it learns. It does not affect results, unless it changes the meta-model. After
            a kill it may see some steps again.

    Returns:
        The finished run.

    Raises:
        UsageError: an option is wrong, the device or the package of a tracker is missing, the zoo is empty, `out` holds
            other files, or a run although `resume` is False, or the method does not learn from unlabelled images.
        RunError: `out` is in use, holds a run of another configuration or zoo or of other unlabelled images, or
            `images` is False and was True.
        ZooError, DataError, ArtefactError: a stage failed; finished work is kept.
        Interrupted: SIGINT or SIGTERM arrived; finished work is kept.
    """
    for name, number in (("workers", workers), ("threads", threads)):
        if number is not None and number < 1:
            raise UsageError(name, f"must be 1 or more, not {number}", "give a positive number")
    trackers = (track,) if isinstance(track, str) else tuple(track)
    check_trackers(trackers)
    out = Path(out)
    begun = begun_config(out, method, preset, seed) if resume and config is None else None
    resolved = begun or resolve_config(config, method=method, preset=preset, seed=seed)
    zoo = zoo_with_models(zoo)
    check_run_folder(out, resume)
    given = None if unlabelled is None else UnlabelledImages(unlabelled)
    if not (out / DESCRIPTION).is_file():
        check_before_work(resolved.method, zoo, resolved.options, resolved.seed, given)
    source = Run.open(reuse_images) if isinstance(reuse_images, str | Path) else reuse_images
    if source is not None:
        options = unlabelled_options(resolved.options)
        if options is not None and options.share == 1 and (given is not None or RunFolder(out).has(UNLABELLED)):
            problem = "no image is recovered, since all images are unlabelled ones"
            raise UsageError("reuse_images", problem, "omit it, or choose an unlabelled.share below 1")
        source.check_same_images(zoo, resolved)
    with graceful("continue with --resume") as stop, exclusive(out):
        folder = RunFolder(out)
        folder.tidy()
        compute = Compute.choose(*recorded_compute(folder, device, precision))
        workers = compute.default_workers if workers is None else workers
        with executor_for(executor, workers) as running:
            description = begin(folder, zoo, resolved, threads or _THREADS, compute, images, given)
            workspace = Workspace(
                zoo=zoo,
                folder=folder,
                metrics=MetricsLog(out / METRICS),
                seed=resolved.seed,
                check=stop.check,
                progress=progress,
                compute=compute,
                images=description.get("images", True),
                executor=running,
                learning_threads=workers,
                unlabelled=given,
                on_step=on_step,
            )
            hide_images(workspace)
            with followed(out / METRICS, lambda: tracked_run(out, resolved, description), trackers):
                if not any(map(folder.has, FINISHED)):
                    _learn(workspace, resolved, description, source)
            folder.drop_checkpoints()
            discard_images(workspace)
    return Run(out, description)


def _learn(workspace: Workspace, config: RunConfig, description: dict[str, Any], source: Run | None) -> None:
    if config.former:
        problem = f"was begun with a removed option, {', '.join(config.former)}"
        remedy = "continue with the version that began it, or choose another folder"
        raise RunError(workspace.folder.path, problem, remedy)
    if source is not None:
        budget = getattr(config.options, "budget", None)
        copy_images(workspace, source.path, getattr(budget, "generation", 0))
    with torch_threads(int(description["threads"])):
        module = config.method.train(workspace, config.options)
    folder, method = workspace.folder, config.method
    records = {name: folder.read_json(file) for name, file in _CARD_RECORDS.items() if folder.has(file)}
    card = meta_model_card(
        module,
        workspace.zoo,
        config.as_record(),
        description,
        records,
        title=method.title,
        reference=method.reference,
    )
    meta_model = MetaModel(
        module,
        method=method.name,
        preset=config.preset,
        seed=config.seed,
        card=card,
        unlabelled=unlabelled_count(description),
        validated=is_validated(description),
    )
    files = meta_model.save(folder.path / META_MODEL)
    metrics = [METRICS] if workspace.metrics.path.is_file() else []  # methods without steps log none
    folder.record(*metrics, *(f"{META_MODEL}/{name}" for name in files))
