"""Sentences about a run, the same in a model card and a report. Names of folders and commands stand in backticks.

A run is given by its records: `config`, the content of its `config.yaml`, and `description`, that of its `run.json`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from metazoo.features.embedders import MultiDomainClassifier, count_parameters, recogniser_of
from metazoo.models import ImageClassifier
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
    """One paragraph on the meta-model of a run; `used` names the images, see `images_used`."""
    return (
        f"A few-shot image classifier learned from {counted(models, 'pre-trained model')} and {used}. It turns an "
        "image into features; a new task is learned from 1 to 5 images a class."
    )


def images_used(config: Mapping[str, Any]) -> list[str]:
    """Real images that a run has seen; empty if it is data-free, as all runs are that this version makes."""
    former = (("source", "data", "real images of their classes"), ("selection", "validation", "labelled images"))
    return [images for section, option, images in former if config.get(section, {}).get(option) is not None]


def meta_model_rows(
    module: ImageClassifier | MultiDomainClassifier,
    config: Mapping[str, Any],
    description: Mapping[str, Any],
    *,
    reference: str,
    zoo: str,
) -> list[tuple[str, str]]:
    """Properties and values of a meta-model.

    Args:
        module: the meta-model's.
        config: content of `config.yaml`.
        description: content of `run.json`.
        reference: citation of the method.
        zoo: a few words on the zoo.
    """
    return [
        *network_rows(module),
        ("method", f"{reference}; preset {config['preset']}, seed {config['seed']}"),
        ("made with", ", ".join(f"{name} {version}" for name, version in description["versions"].items())),
        ("zoo", zoo),
    ]


def network_rows(module: ImageClassifier | MultiDomainClassifier) -> list[tuple[str, str]]:
    """Properties and values of the networks of a meta-model."""
    networks, recogniser = (module,) if isinstance(module, ImageClassifier) else module.networks, recogniser_of(module)
    spec = networks[0].spec
    rows = [
        ("architecture", architecture_of(networks[0])),
        ("input", f"{spec.input_size} x {spec.input_size} pixels, {counted(spec.channels, 'channel')}, in [0, 1]"),
        ("features", str(networks[0].network.feature_size)),
    ]
    if recogniser is not None:
        domains = (
            f"{', '.join(recogniser.domains)}, with a network for each; a new task takes the features of those that "
            "its images look like"
        )
        rows.append(("domains", domains))
    return [*rows, ("parameters", f"{count_parameters(module):,}, class head not counted")]


def architecture_of(classifier: ImageClassifier) -> str:
    """An architecture with its arguments, and the rank of its adapters if there are any."""
    spec = classifier.spec
    adapter = "" if spec.adapter is None else f", adapters of rank {spec.adapter.rank}"
    return spec.architecture + "".join(f", {name} {value}" for name, value in spec.arguments.items()) + adapter


def images_note(config: Mapping[str, Any], contracts: Iterable[ModelContract], images: bool, here: str) -> str:
    """What became of recovered images, and what they and the meta-model may reveal.

    Args:
        config: content of `config.yaml`.
        contracts: contracts of the models of the zoo.
        images: whether the run was allowed to show any.
        here: sentence on the images that come with this text.
    """
    permissions = Counter(contract.recovered_images for contract in contracts)
    if not images:
        permissions["keep"] += permissions.pop("show", 0)
    sentences = [
        f"Those of {counted(permissions[permission], 'model')} {fate}."
        for permission, fate in _FATES.items()
        if permissions[permission]
    ]
    risk = "Images recovered from a model can resemble those it was trained on."
    return (
        f"{risk} {' '.join(sentences)} {here} The meta-model was learned from them and from what the models say of "
        "them, so it can carry traces of the same training images."
    )
