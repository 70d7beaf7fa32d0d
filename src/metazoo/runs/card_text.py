"""What a model card and a report say of a run, in the same words. Names of folders and commands stand in backticks."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from metazoo.adapt import MetaModel
from metazoo.features.embedders import count_parameters, recogniser_of
from metazoo.pipeline.options import ImageSourceConfig
from metazoo.runs.config import RunConfig
from metazoo.zoo import ModelContract, Permission

_FATES: dict[Permission, str] = {
    "show": "are kept in the run folder (`bank`) and shown as contact sheets there (`recovered`)",
    "keep": "are kept in the run folder (`bank`) and shown nowhere",
    "discard": "were deleted once the run had finished",
}


def counted(number: int, thing: str) -> str:
    """`1 model`, `2 models`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def figure(value: float | None, decimals: int) -> str:
    """A number, or `-` where there is none."""
    return "-" if value is None else f"{value:.{decimals}f}"


def summary(models: int, used: str) -> str:
    """What has come of so many models; `used` says which images, see `images_used`."""
    return (
        f"A few-shot image classifier learned from {counted(models, 'pre-trained model')} and {used}. It turns an "
        "image into features; a new task is learned from 1 to 5 images a class."
    )


def source_of(config: RunConfig) -> ImageSourceConfig:
    """What images a run learns from; recovered ones, where a preset knows no others."""
    return getattr(config.options, "source", ImageSourceConfig())


def images_used(config: RunConfig, selection: dict[str, Any] | None) -> list[str]:
    """What real images a run has seen; nothing if it is data-free. `selection` is its record, None without one."""
    learned = ["real images of their classes"] if source_of(config).data is not None else []
    return learned + ([] if selection is None else ["some labelled images to select among them"])


def what_it_is(
    config: RunConfig, description: dict[str, Any], zoo: str, meta_model: MetaModel
) -> list[tuple[str, str]]:
    """Property and value. `description` is the run's, `zoo` says which one it was."""
    spec, recogniser = meta_model.spec, recogniser_of(meta_model.module)
    channels = counted(spec.channels, "channel")
    rows = [
        ("architecture", spec.architecture + "".join(f", {k} {v}" for k, v in spec.arguments.items())),
        ("input", f"{spec.input_size} x {spec.input_size} pixels, {channels}, in [0, 1]"),
        ("features", str(meta_model.networks[0].network.feature_size)),
    ]
    if recogniser is not None:
        domains = (
            f"{', '.join(recogniser.domains)}, with a network for each; a new task takes the features of those that "
            "its images look like"
        )
        rows.append(("domains", domains))
    return [
        *rows,
        ("parameters", f"{count_parameters(meta_model.module):,}, class head not counted"),
        ("method", f"{config.method.reference}; preset {config.preset}, seed {config.seed}"),
        ("made with", ", ".join(f"{name} {version}" for name, version in description["versions"].items())),
        ("zoo", zoo),
    ]


def fate_of_images(config: RunConfig, contracts: Iterable[ModelContract], images: bool, here: str) -> str:
    """What became of recovered images, and what they and the meta-model may reveal.

    Args:
        config: of the run.
        contracts: of its models.
        images: whether the run might show any.
        here: a sentence on which of them this very text comes with.
    """
    source = source_of(config)
    if source.kind not in ("recovered", "images"):
        return "No image was recovered: those that it learned from were drawn by chance and formulas, and show no data."
    permissions = Counter(contract.recovered_images for contract in contracts)
    if not images:
        permissions["keep"] += permissions.pop("show", 0)
    sentences = [
        f"Those of {counted(permissions[permission], 'model')} {fate}."
        for permission, fate in _FATES.items()
        if permissions[permission]
    ]
    risk = (
        "Images recovered from a model can resemble those it was trained on."
        if source.data is None
        else "In the place of recovered images the run folder holds real ones."
    )
    return (
        f"{risk} {' '.join(sentences)} {here} The meta-model was learned from them and from what the models say of "
        "them, so it can carry traces of the same training images."
    )
