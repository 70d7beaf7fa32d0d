"""Cards: the `README.md` of a bundle, with its use, properties and origin.

A card is made from plain records. Every figure in it comes from them.
"""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from metazoo import choices
from metazoo.adapt.bundle import ClassifierDescription
from metazoo.adapt.card_text import (
    architecture_of,
    counted,
    data_rows,
    figure,
    images_note,
    images_used,
    is_backbone,
    meta_model_rows,
    network_rows,
    source_licences,
    summary,
    unlabelled_count,
)
from metazoo.adapt.front_matter import UNKNOWN, front_matter
from metazoo.features.embedders import Embedder, MetaModelModule, SideBySide, count_parameters
from metazoo.models import ImageClassifier
from metazoo.text import printable, without_folders
from metazoo.zoo import ModelContract, Zoo

_MOST_ROWS = 200
_NO_ACCURACY = (
    "The accuracy of this meta-model is unknown, because training does not measure it. Measure it on images of classes "
    "that no source model was trained on: `metazoo evaluate RUN --data FOLDER`."
)
_NO_IMAGES = "This folder holds no images."
_RECOVERED = (
    "Recovered images recognised: share of the images recovered from a model that the model itself assigns to the "
    "intended class."
)
_TRUST = (
    "Trust: agreement with the other models on the classes of recovered images, relative to the most trusted model."
)
_Record = Mapping[str, Any]


def meta_model_card(
    module: MetaModelModule,
    zoo: Zoo,
    config: _Record,
    description: _Record,
    records: _Record,
    *,
    title: str,
    reference: str,
) -> str:
    """Card of a meta-model: Markdown with the front matter that model hubs read.

    Args:
        module: module of the meta-model.
        zoo: zoo that the run learned from.
        config: content of the run's `config.yaml`.
        description: content of the run's `run.json`.
        records: records of the run by name: `health`, `trust`, `groups` and `backbone`, as far as it has written them.
        title: full name of the method.
        reference: citation of the method.
    """
    used = images_used(config, description)
    which = f"{counted(len(zoo), 'model')}, SHA-256 {zoo.sha256}"
    backbone = records.get("backbone")
    licences = source_licences(description, zoo, backbone)
    parts = [
        front_matter([*_data_tags(used, description), config["method"]], licences.values()),
        f"# Meta-model by {title}",
        summary(len(zoo), " and ".join(used) or "**no training images**", description),
        "## Use",
        _USE,
        "## Properties",
        _table(("property", "value"), meta_model_rows(module, config, description, reference=reference, zoo=which)),
        "## Results",
        _NO_ACCURACY,
        "## Limits",
        _limits(module),
        "## Source models",
        _backbone(backbone) if is_backbone(description) else _models(zoo, records.get("health"), records.get("trust")),
        _groups(records.get("groups")),
        "## Privacy",
        images_note(config, description, zoo, _NO_IMAGES, stored="health" in records),
        "## Configuration",
        f"```yaml\n{yaml.safe_dump(without_folders(config), sort_keys=False)}```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def plain_card(
    module: MetaModelModule, method: str, preset: str, seed: int, unlabelled: int = 0, validated: bool = False
) -> str:
    """Card of a meta-model whose run is not available."""
    rows = [*network_rows(module), ("method", f"{method}; preset {preset}, seed {seed}")]
    rows += data_rows(unlabelled, validated)
    head = [front_matter([method]), f"# Meta-model by {escape(printable(method))}", "## Use", _USE, "## Properties"]
    end = ["## Results", _NO_ACCURACY, "## Limits", _limits(module), "## Privacy", _NO_IMAGES]
    return "\n\n".join([*head, _table(("property", "value"), rows), *end]) + "\n"


def classifier_rows(embedder: Embedder, description: ClassifierDescription) -> list[tuple[str, str]]:
    """Properties and values of a few-shot classifier."""
    networks = description.networks
    side = max(spec.input_size for spec in networks)
    members = embedder.members if isinstance(embedder, SideBySide) else [embedder]
    architectures = [architecture_of(member) for member in members if isinstance(member, ImageClassifier)]
    rows = [
        ("made from", description.source or "not recorded"),
        ("networks", "; ".join(dict.fromkeys(architectures)) + f" ({counted(len(networks), 'network')})"),
        ("input", f"{side} x {side} pixels, cropped at the centre"),
        ("parameters", f"{count_parameters(embedder):,}, without class heads"),
        ("head", ": ".join(filter(None, (description.head, choices.HEADS.get(description.head))))),
        ("batch norm", description.batch_norm),
        ("features", "means over an image and its mirror image" if description.mirrored else "from the image alone"),
    ]
    rows += _support_rows(description)
    if description.domains:
        rows.append(("domains", ", ".join(f"{name} {100 * s:.0f} %" for name, s in description.domains.items())))
    return rows


def classifier_card(embedder: Embedder, description: ClassifierDescription, *, transductive: bool) -> str:
    """Card of a few-shot classifier."""
    names, rows = description.class_names, classifier_rows(embedder, description)
    how = "all images of a call together, which influence each other" if transductive else "each image on its own"
    classes = "\n".join(f"{number}. {escape(printable(name))}" for number, name in enumerate(names[:_MOST_ROWS]))
    more = f"\n\n{len(names) - _MOST_ROWS} more classes are not listed." if len(names) > _MOST_ROWS else ""
    pinned = re.search(r"hf:[\w./-]+@[0-9a-f]{40}", description.source)
    parts = [
        front_matter([], description.licences, pinned[0] if pinned else None),
        f"# Few-shot classifier of {len(names)} classes",
        f"An image classifier learned from a few images per class. It classifies {how}. {_calibration(description)}",
        "## Use",
        _USE_CLASSIFIER,
        "## Properties",
        _table(("property", "value"), rows),
        "## Classes",
        classes + more,
        "## Limits",
        f"{_cropped(max(spec.input_size for spec in description.networks))} {_foreign_images(description)}",
        "## Privacy",
        _classifier_privacy(description),
    ]
    return "\n\n".join(parts) + "\n"


def _foreign_images(description: ClassifierDescription) -> str:
    if description.threshold is None:
        return "An image of none of the classes gets one of them."
    return (
        "An image of none of the classes still gets one of them, and is called unknown if it resembles none; images of "
        "similar classes often are not."
    )


def _classifier_privacy(description: ClassifierDescription) -> str:
    held = "support images, resized" if description.has_support_images else "no images"
    head = (
        f"This folder holds {held}. The head holds values computed from the features of the support images (a mean, or "
        "weights, for each class)."
    )
    if not description.versions:
        return f"{head} Whoever has this folder knows the names of the classes."
    return (
        f"{head} Features, hashes and file names of the support images are stored as well, also of removed ones until "
        "`metazoo classifier forget`. Whoever has this folder knows the names of the classes and of these files."
    )


def _support_rows(description: ClassifierDescription) -> list[tuple[str, str]]:
    """Rows on the support images and on the accuracy that they imply."""
    if not description.versions:
        return []
    counts = sorted(len(members) for members in description.versions[-1].members)
    span = f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
    stored = "pictures, features, hashes and names" if description.has_support_images else "features, hashes and names"
    rows = [("support", f"{span} images per class, whose {stored} are stored here")]
    record = description.held_out
    if record is not None:
        low, high = (100 * edge for edge in record.interval())
        accuracy = f"{100 * record.correct / record.images:.0f} % of {record.images} images"
        rows.append(("accuracy on held-out support images", f"{accuracy} (95 % interval {low:.0f} to {high:.0f} %)"))
    if description.threshold is not None:
        share = f"{100 * description.false_rejection:g} %"
        rows.append(("images of other classes", f"called unknown; about {share} of the images of its classes are, too"))
    return rows


def _calibration(description: ClassifierDescription) -> str:
    if not description.versions:
        return "Its probabilities rank the classes but are not calibrated. Its accuracy has not been measured."
    if description.held_out is None:
        return "Its probabilities are calibrated for typical tasks only, and its accuracy has not been measured."
    return "Its probabilities are calibrated on held-out support images, which are few."


_USE = """```python
import metazoo

meta_model = metazoo.MetaModel.from_pretrained("meta-model")  # path of this folder, or hf:OWNER/NAME
# Images are paths, PIL images or a tensor [n, 3, height, width], uint8 or float in [0, 1].
classifier = meta_model.adapt(["cat-1.jpg", "cat-2.jpg", "dog-1.jpg"], ["cat", "cat", "dog"])
print(classifier.predict(["new-1.jpg", "new-2.jpg"]).names)
```

On the command line, with one folder of images per class:
`metazoo adapt META_MODEL --support FOLDER --out CLASSIFIER`."""


_USE_CLASSIFIER = """```python
import metazoo

classifier = metazoo.FewShotClassifier.from_pretrained("classifier")  # path of this folder, or hf:OWNER/NAME
# Images are paths, PIL images or a tensor [n, 3, height, width], uint8 or float in [0, 1].
print(classifier.predict(["one.jpg", "two.jpg"]).names)
```

On the command line: `metazoo predict CLASSIFIER IMAGES`."""


def _data_tags(used: list[str], description: _Record) -> list[str]:
    """Tag of the real images that a run has used: none, unlabelled ones alone, or others."""
    if not used:
        return [] if is_backbone(description) else ["data-free"]
    return ["label-free"] if len(used) == 1 and unlabelled_count(description) else []


def _limits(module: MetaModelModule) -> str:
    networks = (module,) if isinstance(module, ImageClassifier) else module.networks
    return (
        f"{_cropped(max(own.spec.input_size for own in networks))} Classes that are unlike all classes of the source "
        "models are classified worse. Classes that a source model was trained on are not new: their accuracy is "
        "contaminated, and `metazoo evaluate` warns of them by their names. An image of none of the classes of a task "
        "gets one of them."
    )


def _cropped(side: int) -> str:
    return f"Images are cropped to a square and resized to {side} x {side} pixels, so small details are lost."


def _backbone(record: _Record | None) -> str:
    if record is None:
        return "None."
    origin = escape(printable(_origin_text(record["source"], record["revision"])))
    return f"{origin}; licence: {escape(printable(record['licence'] or UNKNOWN))}."


def _origin(contract: ModelContract) -> str:
    provenance, training = contract.provenance, contract.training
    if provenance is not None:
        return _origin_text(provenance.source, provenance.revision)
    return "unknown" if training is None else f"trained on {training.source}"


def _origin_text(source: str, revision: str | None) -> str:
    return f"{source}@{revision[:12]}" if revision is not None and source.startswith("hf:") else source


def _models(zoo: Zoo, health: _Record | None, trust: _Record | None) -> str:
    agreement = {row["teacher"]: row["agreement"] for row in health["teachers"]} if health else {}
    scores = {row["model"]: row["score"] for row in trust["models"]} if trust else {}
    rows = [
        (
            contract.name,
            contract.spec.architecture,
            _origin(contract),
            (contract.provenance and contract.provenance.licence) or UNKNOWN,
            contract.domain,
            str(contract.spec.classes),
            f"{contract.spec.input_size} px",
            "unknown" if contract.accuracy is None else f"{contract.accuracy:.1f} %",
            f"{100 * agreement[contract.name]:.0f} %" if contract.name in agreement else "",
            f"{scores[contract.name]:.2f}" if contract.name in scores else "",
        )
        for contract in zoo.contracts[:_MOST_ROWS]
    ]
    head = (
        "model",
        "architecture",
        "origin",
        "licence",
        "domain",
        "classes",
        "input",
        "validation accuracy",
        "recovered images recognised",
        "trust",
    )
    rest = f"\n\n{len(zoo) - _MOST_ROWS} more models are not listed." if len(zoo) > _MOST_ROWS else ""
    warnings = [f"\n\n{escape(found['warning'])}" for found in (health, trust) if found and found["warning"]]
    notes = [f"\n\n{note}" for note, record in ((_RECOVERED, health), (_TRUST, trust)) if record]
    return _table(head, rows) + rest + "".join(notes + warnings)


def _groups(record: _Record | None) -> str:
    if record is None:
        return ""
    quality = record["quality"]
    means = quality["group_means"]
    rows = [
        (str(number + 1), ", ".join(members[:12]) + (", ..." if len(members) > 12 else ""), figure(means[number], 4))
        for number, members in enumerate(record["groups"])
    ]
    figures = [(quality["within_mean"], "within groups"), (quality["between_mean"], "between groups")]
    known = [f"{figure(value, 4)} {scope}" for value, scope in figures if value is not None]
    strategy = f"Grouping strategy: {record['strategy']}."
    means_text = f" Mean dissimilarity of models: {', '.join(known)}." if known else ""
    return f"{strategy}{means_text}\n\n{_table(('group', 'models', 'mean dissimilarity'), rows)}"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *(tuple(escape(printable(cell)) for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape(text: str) -> str:
    """Escape names from outside (of models, classes, domains), so that Markdown and HTML show them as plain text."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~])", r"\\\1", " ".join(text.split()))
