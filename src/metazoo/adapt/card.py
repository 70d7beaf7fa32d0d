"""The card of a bundle, its `README.md`: what it is, what it was made of, and how to use it.

A card is made from plain records, and states no figure that is not in them.
"""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from metazoo.adapt.bundle import ClassifierDescription
from metazoo.adapt.card_text import (
    architecture_of,
    counted,
    figure,
    images_note,
    images_used,
    meta_model_rows,
    network_rows,
    summary,
)
from metazoo.features.embedders import Embedder, MultiDomainClassifier, SideBySide, count_parameters
from metazoo.models import ImageClassifier
from metazoo.text import printable
from metazoo.zoo import Zoo

_MOST_ROWS = 200
_NO_ACCURACY = (
    "Accuracy is not stated here, because it was not measured while training: nothing of this run has seen a real "
    "image. Measure it on classes that no model of the zoo knows: `metazoo evaluate RUN --data FOLDER`."
)
_Record = Mapping[str, Any]


def meta_model_card(
    module: ImageClassifier | MultiDomainClassifier,
    zoo: Zoo,
    config: _Record,
    description: _Record,
    records: _Record,
    *,
    title: str,
    reference: str,
) -> str:
    """Markdown with the front matter that model hubs read.

    Args:
        module: the meta-model's.
        zoo: zoo that the run learned from.
        config: content of the run's `config.yaml`.
        description: content of the run's `run.json`.
        records: those of `health`, `trust` and `groups` that the run has written.
        title: full name of the method.
        reference: citation of the method.
    """
    used = images_used(config)
    which = f"{counted(len(zoo), 'model')}, SHA-256 {zoo.sha256}"
    parts = [
        _front_matter([*([] if used else ["data-free"]), config["method"]]),
        f"# Meta-model by {title}",
        summary(len(zoo), " and ".join(used) or "**no training images**"),
        "## Use",
        _USE,
        "## What it is",
        _table(("property", "value"), meta_model_rows(module, config, description, reference=reference, zoo=which)),
        _NO_ACCURACY,
        "## What it was made of",
        _models(zoo, records.get("health"), records.get("trust")),
        _groups(records.get("groups")),
        "## What it may reveal",
        images_note(config, zoo, description.get("images", True), "No image lies beside this card."),
        "## The run",
        f"```yaml\n{yaml.safe_dump(dict(config), sort_keys=False)}```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def plain_card(module: ImageClassifier | MultiDomainClassifier, method: str, preset: str, seed: int) -> str:
    """A card for a meta-model whose run is not at hand."""
    rows = [*network_rows(module), ("method", f"{method}; preset {preset}, seed {seed}")]
    head = [_front_matter([method]), f"# Meta-model by {escape(printable(method))}", "## Use", _USE, "## What it is"]
    return "\n\n".join([*head, _table(("property", "value"), rows)]) + "\n"


def classifier_card(embedder: Embedder, description: ClassifierDescription, *, transductive: bool) -> str:
    """A card for a few-shot classifier."""
    names, networks = description.class_names, description.networks
    members = embedder.members if isinstance(embedder, SideBySide) else [embedder]
    architectures = [architecture_of(member) for member in members if isinstance(member, ImageClassifier)]
    rows = [
        ("made from", description.source or "not recorded"),
        ("networks", "; ".join(dict.fromkeys(architectures)) + f" ({counted(len(networks), 'network')})"),
        ("input", f"squares of {max(spec.input_size for spec in networks)} pixels, cropped at the centre"),
        ("parameters", f"{count_parameters(embedder):,}, class heads not counted"),
        ("head", description.head),
        ("batch norm", description.batch_norm),
        ("features", "means over an image and its mirror image" if description.mirrored else "of the image itself"),
    ]
    if description.domains:
        rows.append(("domains", ", ".join(f"{name} {100 * s:.0f} %" for name, s in description.domains.items())))
    judged = "all images of a call together, each depending on the others" if transductive else "each image by itself"
    classes = "\n".join(f"{number}. {escape(printable(name))}" for number, name in enumerate(names[:_MOST_ROWS]))
    more = f"\n\n{len(names) - _MOST_ROWS} more classes are not listed." if len(names) > _MOST_ROWS else ""
    parts = [
        _front_matter([]),
        f"# Few-shot classifier of {len(names)} classes",
        f"An image classifier learned from a few images a class. It judges {judged}. Its probabilities rank the "
        "classes and are not calibrated; its accuracy was not measured.",
        "## Use",
        _USE_CLASSIFIER,
        "## What it is",
        _table(("property", "value"), rows),
        "## Classes",
        classes + more,
    ]
    return "\n\n".join(parts) + "\n"


_USE = """```python
import metazoo

meta_model = metazoo.MetaModel.load("meta-model")  # this folder
# images: paths, or a tensor [n, 3, height, width], uint8 or float in [0, 1]; labels: int64 [n] from 0
classifier = meta_model.adapt(support_images, support_labels, class_names)
classifier.predict(images).names
```

Or, with one folder of images a class: `metazoo adapt RUN --support FOLDER --out CLASSIFIER`."""


_USE_CLASSIFIER = """```python
import metazoo

classifier = metazoo.FewShotClassifier.load("classifier")  # this folder
classifier.predict(["one.jpg", "two.jpg"]).names  # or a tensor [n, 3, height, width], uint8 or float in [0, 1]
```

Or `metazoo predict CLASSIFIER IMAGES`."""


def _front_matter(tags: list[str]) -> str:
    tags = ["few-shot-learning", "meta-learning", *tags]
    content = {"library_name": "metazoo", "pipeline_tag": "image-classification", "tags": tags}
    return f"---\n{yaml.safe_dump(content, sort_keys=False)}---"


def _models(zoo: Zoo, health: _Record | None, trust: _Record | None) -> str:
    agreement = {row["teacher"]: row["agreement"] for row in health["teachers"]} if health else {}
    scores = {row["model"]: row["score"] for row in trust["models"]} if trust else {}
    rows = [
        (
            contract.name,
            contract.spec.architecture,
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
        "domain",
        "classes",
        "input",
        "validation accuracy",
        "recognises its recovered images",
        "trust",
    )
    rest = f"\n\n{len(zoo) - _MOST_ROWS} more models are not listed." if len(zoo) > _MOST_ROWS else ""
    warnings = [f"\n\n{escape(found['warning'])}" for found in (health, trust) if found and found["warning"]]
    return _table(head, rows) + rest + "".join(warnings)


def _groups(record: _Record | None) -> str:
    if record is None:
        return ""
    quality = record["quality"]
    means = quality["group_means"]
    rows = [
        (str(number + 1), ", ".join(members[:12]) + (", ..." if len(members) > 12 else ""), figure(means[number], 4))
        for number, members in enumerate(record["groups"])
    ]
    figures = [(quality["within_mean"], "within groups"), (quality["between_mean"], "between them")]
    known = [f"{figure(value, 4)} {place}" for value, place in figures if value is not None]
    sentence = f"Groups are {record['strategy']}" + (f": mean dissimilarity {', '.join(known)}." if known else ".")
    return f"{sentence}\n\n{_table(('group', 'models', 'mean dissimilarity'), rows)}"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *(tuple(escape(printable(cell)) for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape(text: str) -> str:
    """Text of foreign origin (names of models, classes, domains) that is only text in Markdown and in HTML."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~])", r"\\\1", " ".join(text.split()))
