"""Building of a zoo: many small models, each trained on a few classes of one image set."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import torch

from metazoo.choices import Control, Permission
from metazoo.data import ImageSet
from metazoo.errors import UsageError
from metazoo.execution.compute import Compute
from metazoo.execution.executor import Executor, ExecutorName, executor_for
from metazoo.execution.progress import Progress, message
from metazoo.execution.randomness import generator
from metazoo.execution.signals import graceful
from metazoo.models import ImageClassifier, build_classifier
from metazoo.renamed import renamed_arguments
from metazoo.zoo.building.class_lists import ClassLists
from metazoo.zoo.building.classifier_training import train_classifier, validation_accuracy, with_pixel_statistics
from metazoo.zoo.building.jobs import Job, check_same, plan_jobs
from metazoo.zoo.training_config import TrainingConfig
from metazoo.zoo.zoo_folder import Zoo


@renamed_arguments(recipe="config")
def build_zoo(
    out: Path | str,
    image_set: ImageSet,
    architecture: str,
    models: int | None = None,
    ways: int | None = None,
    seed: int = 0,
    *,
    classes: ClassLists | None = None,
    domain: str | None = None,
    config: TrainingConfig | None = None,
    input_size: int | None = None,
    channels: int = 3,
    width: int | None = None,
    train_fraction: float = 0.8,
    recovered_images: Permission | None = None,
    control: Control | None = None,
    workers: int | None = None,
    executor: Executor | ExecutorName = "local",
    device: str | None = None,
    check: Callable[[], None] = lambda: None,
    progress: bool = False,
) -> Zoo:
    """Train models 0 to `models` - 1 of one domain, architecture and seed in the zoo at `out`; existing ones are kept.

    Model `DOMAIN-ARCHITECTURE-sSEED-INDEX` learns `ways` classes drawn from `image_set`, or those of its list in
    `classes`; its outputs are in the order of the draw or list. An interrupted build continues when it is called again;
    its result is bit-equal to that of an uninterrupted build with any number of workers. Other calls may add other
    domains, architectures and seeds to the same zoo.

    Args:
        out: folder of the zoo; created if it does not exist.
        image_set: images of all classes.
        architecture: name of an architecture, see `metazoo.models.architectures()`.
        models: number of such models in the zoo, including existing ones; None with `classes`.
        ways: number of classes per model; None with `classes`.
        seed: seed of the draws, the initial weights and the order of the images.
        classes: class names of every model, or a CSV file with one model a line; None for drawn classes. Further lists
            at the end add models to the zoo.
        domain: domain of the images; None for the name of the image set.
        config: training configuration; None for the published one.
        input_size: side of the models' input in pixels; None for the side of the images.
        channels: number of input channels: 3, or 1 for grey images.
        width: width of the architecture; None for its default.
        train_fraction: fraction of each class's images used for training, from the first; the others validate.
        recovered_images: permission for images recovered from the models, see `ModelContract`; None for `show`.
            Existing models must have the same permission, unless it is None.
        control: type of control models, recorded in their contracts and names: `untrained` for random weights,
            `shuffled-labels` for training on labels permuted among the images; None for trained models.
        workers: number of processes of one thread each; None for one per core, at most 4 on a GPU. Ignored with an
            `Executor`.
        executor: executor of the training: `local`, `ray` (needs the extra), or an `Executor`, which stays open.
        device: device to train on; None for the first GPU, else the CPU. Weights depend on it.
        check: function called between models and while waiting; an exception from it ends the build, and finished
            models are kept.
        progress: whether to show progress on standard error.

    Raises:
        UsageError: an argument is impossible, a class of a list is unknown, or an existing model of the same name was
            made differently; nothing has been trained.
        DataError: a class has too few images to train and validate.
        ZooError: the loss or weights of a training became infinite or NaN.
        RunError: another process is writing to the zoo, or a worker process failed.
        Interrupted: a stop was requested; finished models are kept.
        ArtefactError: the zoo cannot be read or written.
    """
    jobs = plan_jobs(
        image_set,
        architecture,
        models,
        ways,
        seed,
        classes=classes,
        domain=image_set.name if domain is None else domain,
        config=config or TrainingConfig(),
        input_size=image_set.side if input_size is None else input_size,
        channels=channels,
        width=width,
        train_fraction=train_fraction,
        control=control,
    )
    compute = Compute.choose(device)
    pool = executor_for(executor, compute.default_workers if workers is None else workers)
    zoo = Zoo.create(out)
    if not _missing(zoo, jobs, recovered_images):
        if progress:
            prefix = jobs[0].contract.name.rpartition("-")[0]
            present = sum(contract.name.rpartition("-")[0] == prefix for contract in zoo)
            message(f"note: {zoo.folder} already holds {present} such models; none was trained")
        return zoo
    with pool as running, graceful() as stop, zoo.writing():
        missing = _missing(zoo, jobs, recovered_images)

        def checked() -> None:
            check()
            stop.check()

        train = functools.partial(_train, device=compute.device)
        bar = Progress("training", len(jobs), len(jobs) - len(missing)) if progress else None
        with bar or contextlib.nullcontext():
            for index, (classifier, percent) in running.map(
                train, missing, name_of=lambda job: job.contract.name, check=checked
            ):
                contract = missing[index].contract
                zoo.store(
                    contract.name,
                    classifier,
                    class_names=contract.class_names,
                    domain=contract.domain,
                    accuracy=percent,
                    training=contract.training,
                    recovered_images=recovered_images or "show",
                )
                if bar is not None:
                    bar.advance(note=f"{contract.name} {percent:.1f} %")
    return zoo


def _missing(zoo: Zoo, jobs: list[Job], recovered_images: Permission | None) -> list[Job]:
    present = {contract.name.casefold(): contract for contract in zoo}
    missing = []
    for job in jobs:
        contract = present.get(job.contract.name.casefold())
        if contract is None:
            missing.append(job)
        else:
            check_same(zoo.folder, contract, job.contract)
            if recovered_images not in (None, contract.recovered_images):
                raise UsageError(
                    f"model {contract.name!r} of {zoo.folder}",
                    f"recovered images have permission {contract.recovered_images}, not {recovered_images}",
                    "change it with `metazoo zoo set`",
                )
    return missing


def _train(job: Job, *, device: str) -> tuple[ImageClassifier, float]:
    contract, (training_set, validation_set) = job.contract, job.images()
    record = job.record
    spec = with_pixel_statistics(contract.spec, training_set.images)
    random = generator(record.seed, "zoo-build-training", job.kind, record.index)
    if record.control == "untrained":
        classifier = build_classifier(spec, random).eval()
        return classifier, validation_accuracy(classifier, validation_set)
    if record.control == "shuffled-labels":
        shuffle = generator(record.seed, "zoo-build-shuffled-labels", job.kind, record.index)
        order = torch.randperm(len(training_set), generator=shuffle)
        training_set = dataclasses.replace(training_set, labels=training_set.labels[order])
    return train_classifier(
        spec, training_set, validation_set, record.recipe, random, name=contract.name, device=device
    )
