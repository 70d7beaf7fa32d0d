"""Training a meta-model from a zoo."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metazoo.adapt import MetaModel
from metazoo.adapt.card import meta_model_card
from metazoo.errors import RunError, UsageError
from metazoo.execution.compute import Compute
from metazoo.execution.executor import Executor, ExecutorName, executor_for
from metazoo.execution.signals import graceful
from metazoo.execution.threads import torch_threads
from metazoo.methods.base import check_before_work
from metazoo.pipeline.layout import DESCRIPTION, FINISHED, GROUPING, HEALTH, META_MODEL, METRICS, TRUST
from metazoo.pipeline.privacy import discard_images, hide_images
from metazoo.pipeline.recovery_stage import copy_images
from metazoo.pipeline.workspace import Workspace
from metazoo.renamed import renamed_arguments
from metazoo.runs.config import RunConfig, resolve_config
from metazoo.runs.description import begin, begun_config, check_run_folder, recorded_compute
from metazoo.runs.record import Run
from metazoo.storage.lock import exclusive
from metazoo.storage.metrics import MetricsLog
from metazoo.storage.run_folder import RunFolder
from metazoo.zoo import Zoo, zoo_with_models

# Small layers gain little from more threads, and wait many times longer where another program wants a core as well.
_THREADS = 1
_CARD_RECORDS = {"health": HEALTH, "trust": TRUST, "groups": GROUPING}


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
) -> Run:
    """Learn one meta-model from a zoo, without data.

    The command line lets this process keep freed memory, which makes learning by small networks on the CPU several
    times faster; elsewhere call `metazoo.execution.process_memory.keep_freed_memory` before, once.

    On the CPU a run that is interrupted or killed and resumed ends bit-equal to one that was not, as long as the number
    of threads is the same; it is recorded, and a resumed run takes it from there.

    Args:
        zoo: or its folder.
        method: `tgr` if neither this nor `config` says.
        out: the run folder; made if missing.
        preset: of the method; `default` if neither this nor `config` says.
        config: options that differ from the preset; see `resolve_config`. Without them a resumed run goes on as it was
            begun.
        seed: 0 if neither this nor `config` says.
        resume: go on with the run that is in `out`, or begin it.
        workers: processes for independent work, and on the CPU threads of the learning, each with networks at work in
            memory; one a core if None, at most 4 on a GPU. It changes no result.
        executor: where independent work runs: `local`, `ray` (needs the extra), or an executor, which stays open and
            has workers of its own. It changes no result.
        threads: torch threads of the learning, of which every worker thread has so many and there are fewer of those; 1
            if None, which suits networks as small as Conv4.
        device: `cpu`, `cuda` or `cuda:1`; the first GPU, else the CPU if None. It is recorded, and a resumed run stays
            there unless another one is named, where numbers are rounded otherwise.
        precision: `float32` or `bfloat16`, see `Compute`; `bfloat16` on a GPU, else `float32` if None. As `device`.
        progress: whether to say on standard error how far the run is.
        images: False makes no picture of recovered images, whatever the contracts of the models allow. It is recorded,
            and a resumed run takes it from there. Contracts are obeyed as they are at every call, so after one has been
            changed, a call with `resume` deletes what it forbids, of a finished run too.
        reuse_images: another run, whose recovered images are copied; its zoo, seed and options of recovery must be
            those of this run, which ends as if it had recovered the same images itself.

    Returns:
        The finished run.

    Raises:
        UsageError: an option is wrong, the device is not there, the zoo is empty, or `out` holds something else, or a
            run and `resume` is False.
        RunError: `out` is in use, or holds a run of another description or zoo, or `images` is False and it was True.
        ZooError, DataError, ArtefactError: as the stages; what was finished is kept.
        Interrupted: SIGINT or SIGTERM came; what was finished is kept.
    """
    for name, number in (("workers", workers), ("threads", threads)):
        if number is not None and number < 1:
            raise UsageError(f"{name} must be 1 or more, not {number}")
    out = Path(out)
    begun = begun_config(out, method, preset, seed) if resume and config is None else None
    resolved = begun or resolve_config(config, method=method, preset=preset, seed=seed)
    zoo = zoo_with_models(zoo)
    check_run_folder(out, resume)
    if not (out / DESCRIPTION).is_file():
        check_before_work(resolved.method, zoo, resolved.options, resolved.seed)
    source = Run.open(reuse_images) if isinstance(reuse_images, str | Path) else reuse_images
    if source is not None:
        source.check_same_images(zoo, resolved)
    with graceful("continue with --resume") as stop, exclusive(out):
        folder = RunFolder(out)
        folder.tidy()
        compute = Compute.choose(*recorded_compute(folder, device, precision))
        workers = compute.default_workers if workers is None else workers
        with executor_for(executor, workers) as running:
            description = begin(folder, zoo, resolved, threads or _THREADS, compute, images)
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
            )
            hide_images(workspace)
            if not any(map(folder.has, FINISHED)):
                if resolved.former:
                    problem = f"was begun with the option {', '.join(resolved.former)}, which no longer exists"
                    raise RunError(out, problem, "continue with the version that began it, or choose another folder")
                if source is not None:
                    copy_images(workspace, source.path)
                _learn(workspace, resolved, description)
            folder.drop_checkpoints()
            discard_images(workspace)
    return Run(out, description)


def _learn(workspace: Workspace, config: RunConfig, description: dict[str, Any]) -> None:
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
    meta_model = MetaModel(module, method=method.name, preset=config.preset, seed=config.seed, card=card)
    files = meta_model.save(folder.path / META_MODEL)
    folder.record(METRICS, *(f"{META_MODEL}/{name}" for name in files))
