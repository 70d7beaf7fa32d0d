"""Texts about a run that model cards and reports share. Names of folders and commands are in backticks.

A run is given by its records: `config` is the content of `config.yaml`, `description` the content of `run.json`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from metazoo.data.unlabelled import use_of_data
from metazoo.features.embedders import JointFeatures, MetaModelModule, count_parameters, recogniser_of
from metazoo.models import ImageClassifier
from metazoo.zoo import ModelContract, Permission

_IMAGES: dict[Permission, str] = {
    "show": "are kept in the run folder (`bank`) and shown there as contact sheets (`recovered`)",
    "keep": "are kept in the run folder (`bank`) and not shown",
    "discard": "were deleted when the run had finished",
}


def counted(number: int, thing: str) -> str:
    """Number and noun, such as `1 model` or `2 models`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def figure(value: float | None, decimals: int) -> str:
    """Text of a number, `-` for None."""
    return "-" if value is None else f"{value:.{decimals}f}"


def summary(models: int, used: str, description: Mapping[str, Any]) -> str:
    """Paragraph that introduces the meta-model of a run.

    Args:
        models: number of models in the zoo.
        used: real images that the run has used; see `images_used`.
        description: content of `run.json`.
    """
    origin = {
        "weights": f"made of the weights of {counted(models, 'pre-trained model')} (all of them, one, or their mean)",
        "backbone": "made of a pre-trained network as it is; no model of the zoo is used",
        "nothing": "with random weights: nothing was learned",
    }.get(description.get("uses", ""), f"learned from {counted(models, 'pre-trained model')} and {used}")
    return (
        f"A meta-model for few-shot image classification, {origin}. From 1 to 5 labelled images per class, it makes a "
        "classifier of new classes."
    )


def is_backbone(description: Mapping[str, Any]) -> bool:
    """Whether a run uses no model of the zoo but a pre-trained network from elsewhere; see `run.json`."""
    return description.get("uses") == "backbone"


def images_used(config: Mapping[str, Any], description: Mapping[str, Any]) -> list[str]:
    """Names of the real images that a run has used; empty for a data-free run.

    Args:
        config: content of `config.yaml`.
        description: content of `run.json`.
    """
    former = (("source", "data", "real images of their classes"), ("selection", "validation", "labelled images"))
    used = [images for section, option, images in former if config.get(section, {}).get(option) is not None]
    count = unlabelled_count(description)
    used += [f"{count:,} unlabelled images"] if count else []
    return [*used, *(["labelled validation images"] if is_validated(description) else [])]


def source_licences(
    description: Mapping[str, Any], contracts: Iterable[ModelContract], backbone: Mapping[str, Any] | None
) -> dict[str, str | None]:
    """Licence of every model that a meta-model depends on, by name; None if it is unknown.

    Args:
        description: content of `run.json`.
        contracts: contracts of the models of the zoo.
        backbone: record of a backbone from outside the zoo; None if there is none.
    """
    if backbone is not None:
        return {str(backbone["source"]): backbone["licence"]}
    if description.get("uses") == "nothing":
        return {}
    return {own.name: None if own.provenance is None else own.provenance.licence for own in contracts}


def unlabelled_count(description: Mapping[str, Any]) -> int:
    """Number of unlabelled images that a run has used; `description` is the content of `run.json`."""
    return description.get("unlabelled", {}).get("images", 0)


def is_validated(description: Mapping[str, Any]) -> bool:
    """Whether labelled validation images directed a run; `description` is the content of `run.json`."""
    return description.get("validated", False)


def meta_model_rows(
    module: MetaModelModule,
    config: Mapping[str, Any],
    description: Mapping[str, Any],
    *,
    reference: str,
    zoo: str,
) -> list[tuple[str, str]]:
    """Properties and values of a meta-model.

    Args:
        module: module of the meta-model.
        config: content of `config.yaml`.
        description: content of `run.json`.
        reference: citation of the method.
        zoo: short description of the zoo.
    """
    return [
        *network_rows(module),
        ("method", f"{reference}; preset {config['preset']}, seed {config['seed']}"),
        *data_rows(unlabelled_count(description), is_validated(description)),
        ("made with", ", ".join(f"{name} {version}" for name, version in description["versions"].items())),
        ("zoo", zoo),
    ]


def data_rows(unlabelled: int, validated: bool = False) -> list[tuple[str, str]]:
    """Row on the use of real images, see `use_of_data`; none for a data-free meta-model."""
    used = use_of_data(unlabelled, validated)
    return [("data", f"{used}, not data-free")] if used else []


def network_rows(module: MetaModelModule) -> list[tuple[str, str]]:
    """Properties and values of the networks of a meta-model."""
    networks, recogniser = (module,) if isinstance(module, ImageClassifier) else module.networks, recogniser_of(module)
    is_joint = isinstance(module, JointFeatures)
    spec = max((own.spec for own in networks), key=lambda spec: spec.input_size)
    side = spec.input_size
    counts = Counter(architecture_of(own) for own in networks)
    several = [f"{count} x {name}" if is_joint else name for name, count in counts.items()]
    features = sum(own.network.feature_size for own in networks) if is_joint else networks[0].network.feature_size
    rows = [
        ("architecture", "; ".join(several)),
        ("input", f"{side} x {side} pixels, {counted(spec.channels, 'channel')}, values in [0, 1]"),
        ("features", f"{features} per image"),
    ]
    if recogniser is not None:
        domains = f"{', '.join(recogniser.domains)}; a new task uses the networks of the domains its images resemble"
        rows.append(("domains", domains))
    size = sum(
        tensor.numel() * tensor.element_size() for own in networks for tensor in own.network.state_dict().values()
    )
    rows.append(("parameters", f"{count_parameters(module):,}, without class head"))
    return [*rows, ("size", f"{size:,} bytes" if size < 1e5 else f"{size / 1e6:.1f} MB")]


def architecture_of(classifier: ImageClassifier) -> str:
    """Name of an architecture with its arguments and, if it has adapters, their rank."""
    spec = classifier.spec
    adapter = "" if spec.adapter is None else f", adapters of rank {spec.adapter.rank}"
    return spec.architecture + "".join(f", {name} {value}" for name, value in spec.arguments.items()) + adapter


def images_note(
    config: Mapping[str, Any],
    description: Mapping[str, Any],
    contracts: Iterable[ModelContract],
    here: str,
    *,
    stored: bool = True,
) -> str:
    """Paragraph on the use of recovered and unlabelled images, and on what they and the meta-model can reveal.

    Args:
        config: content of `config.yaml`.
        description: content of `run.json`.
        contracts: contracts of the models of the zoo.
        here: sentence on the images that come with this text.
        stored: whether the run has stored recovered images.
    """
    other = _WITHOUT_IMAGES.get(description.get("uses", ""))
    if other is not None:
        return other
    count, recovered = unlabelled_count(description), _NOT_STORED
    if stored:
        recovered = _recovered_note(description, contracts)
    if not count:
        return f"{recovered} {here} {_TRACES}"
    given = (
        f"The {count:,} unlabelled images are shown nowhere; their copies in the run folder were deleted when the run "
        "had finished, and their hashes are kept. The meta-model can carry traces of them."
    )
    if config["unlabelled"]["share"] == 1:
        return f"No image was recovered. {given} {here}"
    return f"{recovered} {here} {_TRACES} {given}"


_WITHOUT_IMAGES = {
    "weights": (
        "No image was recovered. The meta-model contains weights of the models (all of them, one, or their mean); "
        "images can be recovered from them, and the permissions and licences of the models apply."
    ),
    "backbone": (
        "No image was recovered, and no model of the zoo is used. The meta-model is a pre-trained network from "
        "elsewhere; images can be recovered from its weights, and its licence applies."
    ),
    "nothing": "No image was recovered. The weights are random: nothing was learned, so they reveal nothing.",
}
_NOT_STORED = (
    "Images recovered from a model can resemble its training images. They were recovered while the meta-model learned "
    "from them, and not stored."
)
_TRACES = (
    "The meta-model was learned from the recovered images and the outputs of the models on them, so it can carry "
    "traces of the same training images."
)


def _recovered_note(description: Mapping[str, Any], contracts: Iterable[ModelContract]) -> str:
    permissions = Counter(contract.recovered_images for contract in contracts)
    if not description.get("images", True):
        permissions["keep"] += permissions.pop("show", 0)
    sentences = [
        f"The images of {counted(permissions[permission], 'model')} {use}."
        for permission, use in _IMAGES.items()
        if permissions[permission]
    ]
    return f"Images recovered from a model can resemble its training images. {' '.join(sentences)}"
