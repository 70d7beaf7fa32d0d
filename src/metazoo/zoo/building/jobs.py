"""Jobs of a build, checked before any training."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from metazoo.choices import Control
from metazoo.data import ImageSet, split_images
from metazoo.errors import UsageError
from metazoo.execution.randomness import generator
from metazoo.models import ClassifierSpec, network_without_weights
from metazoo.storage.validation import first_problem
from metazoo.zoo.building.class_lists import ClassLists, class_lists
from metazoo.zoo.contract import ModelContract, TrainingRecord, checked_contract
from metazoo.zoo.training_config import TrainingConfig

_LONGEST_DOMAIN_IN_A_NAME = 40
_NO_HASH = "0" * 64


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """One model to be trained.

    Attributes:
        contract: contract without the hash, the accuracy, and the mean and standard deviation of the pixels.
        kind: domain and architecture; with the seed and the index, they determine the randomness.
        classes: indices of the classes to learn in `image_set`.
        image_set: image set that holds the classes.
    """

    contract: ModelContract
    kind: str
    classes: tuple[int, ...]
    image_set: ImageSet

    @property
    def record(self) -> TrainingRecord:
        """Training record of the contract."""
        assert self.contract.training is not None
        return self.contract.training

    def images(self) -> tuple[ImageSet, ImageSet]:
        """Training and validation images at the model's input size, labelled by output index."""
        chosen = self.image_set.select_classes(self.classes).resized(self.contract.spec.input_size)
        return split_images(chosen, self.record.train_fraction)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with the images of its own classes only."""
        chosen = self.image_set.select_classes(self.classes)
        return Job, (self.contract, self.kind, tuple(range(len(self.classes))), chosen)


def plan_jobs(
    image_set: ImageSet,
    architecture: str,
    models: int | None,
    ways: int | None,
    seed: int,
    *,
    classes: ClassLists | None = None,
    domain: str,
    config: TrainingConfig,
    input_size: int,
    channels: int,
    width: int | None,
    train_fraction: float,
    control: Control | None = None,
) -> list[Job]:
    """Plan the models of a build; see `build_zoo`.

    Raises:
        UsageError: an argument is impossible.
        DataError: a class has too few images to train and validate.
    """
    total = len(image_set.class_names)
    if not 0 <= seed < 2**63:
        raise UsageError("--seed", f"must be from 0 to 2^63 - 1, not {seed}")
    if total < 2:
        raise UsageError(image_set.name, f"has {total} class, but a model needs at least 2", "give more classes")
    label = architecture if width is None else f"{architecture}-w{width}"
    kind = f"{domain}/{label}"
    if classes is not None:
        if models is not None or ways is not None:
            name = "--ways" if models is None else "--models"
            raise UsageError(name, "is stated by the class lists already", f"omit {name} or the lists")
        chosen = class_lists(classes, image_set)
    else:
        chosen = _drawn(image_set, models, ways, seed, kind)
    specs = {count: _spec(architecture, count, input_size, channels, width) for count in sorted({*map(len, chosen)})}
    if (config.largest_shift or 0) >= input_size:
        raise UsageError(
            "--shift",
            f"{config.largest_shift} pixels are too many for images of {input_size}",
            "choose a smaller shift, such as 4 pixels of 32",
        )
    # Split images of one pixel, to count and check without copying the real ones.
    tiny = dataclasses.replace(image_set, images=torch.zeros(len(image_set), 3, 1, 1, dtype=torch.uint8))
    training, validation = (torch.bincount(part.labels, minlength=total) for part in split_images(tiny, train_fraction))
    file_label = label.replace(":", "-") + (f"-{control}" if control else "")
    resolved = config.resolved(architecture)
    jobs = []
    for index, own in enumerate(chosen):
        draw = list(own)
        values: dict[str, Any] = {"source": image_set.name, "data_sha256": image_set.sha256, "seed": seed}
        values |= {"index": index, "ways": len(own), "choice": "drawn" if classes is None else "listed"}
        values |= {"training_images": int(training[draw].sum()), "validation_images": int(validation[draw].sum())}
        values |= {
            "train_fraction": train_fraction,
            "recipe": resolved,
            "torch_version": torch.__version__,
            "control": control,
        }
        contract = checked_contract(
            name=f"{_safe(domain)}-{file_label}-s{seed}-{index:03d}",
            spec=specs[len(own)],
            class_names=tuple(image_set.class_names[position] for position in own),
            domain=domain,
            weights_sha256=_NO_HASH,
            training=values,
        )
        jobs.append(Job(contract, kind, own, image_set))
    return jobs


def _drawn(image_set: ImageSet, models: int | None, ways: int | None, seed: int, kind: str) -> list[tuple[int, ...]]:
    """Classes drawn for every model."""
    for name, value in (("--models", models), ("--ways", ways)):
        if value is None:
            raise UsageError(name, "missing", f"give {name}, or class lists (--classes-file)")
    assert models is not None
    assert ways is not None
    total = len(image_set.class_names)
    if models < 1:
        raise UsageError("--models", f"must be at least 1, not {models}")
    if not 2 <= ways <= total:
        raise UsageError("--ways", f"must be from 2 to the {total} classes of {image_set.name}, not {ways}")
    random = (generator(seed, "zoo-build-classes", kind, index) for index in range(models))
    return [tuple(torch.randperm(total, generator=own)[:ways].tolist()) for own in random]


def check_same(zoo: Path, present: ModelContract, planned: ModelContract) -> None:
    """Check that an existing model equals the planned one.

    Raises:
        UsageError: it was made from other images or with another configuration.
    """
    found, wanted = (dict(_flat(_identity(contract))) for contract in (present, planned))
    for key in [key for key in wanted if key not in found or found[key] != wanted[key]]:
        value = f" ({found[key]}, not {wanted[key]})" if key in found and "sha256" not in key else ""
        raise UsageError(
            f"model {present.name!r} of {zoo}",
            f"made with another {key}{value}",
            "choose another domain (--domain), seed (--seed) or folder, or remove the model",
        )


def _identity(contract: ModelContract) -> dict[str, Any]:
    """Values known before the training, without torch's version and the permission, which do not affect the result."""
    other: Any = {"weights_sha256": True, "accuracy": True, "spec": {"mean", "std"}, "training": {"torch_version"}}
    return contract.model_dump(mode="json", exclude=other | {"recovered_images": True})


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _spec(architecture: str, ways: int, input_size: int, channels: int, width: int | None) -> ClassifierSpec:
    """Specification of a model with a placeholder for the mean and standard deviation of the images."""
    try:
        spec = ClassifierSpec.model_validate(
            {
                "architecture": architecture,
                "arguments": {} if width is None else {"width": width},
                "classes": ways,
                "input_size": input_size,
                "channels": channels,
                "mean": (0.0,) * channels,
                "std": (1.0,) * channels,
            }
        )
    except ValidationError as error:
        raise UsageError(architecture, first_problem(error), "change that value") from error
    network_without_weights(spec)
    return spec


def _safe(domain: str) -> str:
    """Domain as a part of a file name."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", domain)[:_LONGEST_DOMAIN_IN_A_NAME].strip("._-")
    return safe or "domain"
