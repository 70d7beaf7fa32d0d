"""The model card of a meta-model: what it is, what it was made of, and how to use it. No figure is invented here."""

import re
from typing import Any

import yaml

from metazoo.adapt import MetaModel
from metazoo.pipeline.layout import GROUPING, HEALTH, SELECTION, TRUST
from metazoo.pipeline.options import ImageSourceConfig
from metazoo.runs.card_text import counted, fate_of_images, figure, images_used, source_of, summary, what_it_is
from metazoo.runs.config import RunConfig
from metazoo.storage.run_folder import RunFolder
from metazoo.zoo import Zoo

_MOST_ROWS = 200


def meta_model_card(
    zoo: Zoo,
    config: RunConfig,
    description: dict[str, Any],
    meta_model: MetaModel,
    folder: RunFolder,
) -> str:
    """Markdown with the front matter that model hubs read."""
    health, trust, selection = (
        folder.read_json(name) if folder.has(name) else None for name in (HEALTH, TRUST, SELECTION)
    )
    used = images_used(config, selection)
    parts = [
        _front_matter(config, data_free=not used),
        f"# Meta-model by {config.method.title}",
        summary(len(zoo), " and ".join(used) or "**no training images**"),
        "## Use",
        _USE,
        "## What it is",
        _table(
            ("property", "value"),
            what_it_is(config, description, f"{counted(len(zoo), 'model')}, SHA-256 {zoo.sha256}", meta_model),
        ),
        _no_accuracy(source_of(config), selection),
        "## What it was made of",
        _models(zoo, health, trust, selection),
        _groups(folder),
        "## What it may reveal",
        fate_of_images(config, zoo, description.get("images", True), "No image lies beside this card."),
        "## The run",
        f"```yaml\n{config.as_yaml()}```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_USE = """```python
import metazoo

meta_model = metazoo.MetaModel.load("meta-model")  # this folder
# images: float [n, 3, height, width] in [0, 1], or uint8; labels: int64 [n] from 0
classifier = meta_model.adapt(support_images, support_labels, class_names)
classifier.predict(images).names
```

Or, with one folder of images a class: `metazoo adapt RUN --support FOLDER --out CLASSIFIER`."""


def _front_matter(config: RunConfig, *, data_free: bool) -> str:
    content = {
        "library_name": "metazoo",
        "pipeline_tag": "image-classification",
        "tags": ["few-shot-learning", "meta-learning", *(["data-free"] if data_free else []), config.method.name],
    }
    return f"---\n{yaml.safe_dump(content, sort_keys=False)}---"


def _no_accuracy(source: ImageSourceConfig, selection: dict[str, Any] | None) -> str:
    measure = "Measure it on classes that no model of the zoo knows: `metazoo evaluate RUN --data FOLDER`."
    if source.data is not None:
        measure = (
            f"The images that it learned from are real ones of {escape(source.data)}, for a study, so this run is "
            f"**not data-free**. {measure}"
        )
    if selection is None:
        unseen = "" if source.data is not None else ": nothing of this run has seen a real image"
        return f"Accuracy is not stated here, because it was not measured while training{unseen}. {measure}"
    seen = selection["validation"]
    return (
        f"The models to learn from were selected by accuracy on {counted(seen['images'], 'labelled image')} of "
        f"{len(seen['classes'])} classes, SHA-256 {seen['sha256']}. So this run is **not data-free** in the strict "
        "sense, though the meta-model took no gradient from these images; accuracy on them or on their classes would "
        f"flatter it. No other accuracy was measured while training. {measure}"
    )


def _models(
    zoo: Zoo, health: dict[str, Any] | None, trust: dict[str, Any] | None, selection: dict[str, Any] | None
) -> str:
    agreement = {row["teacher"]: row["agreement"] for row in health["teachers"]} if health else {}
    scores = {row["model"]: row["score"] for row in trust["models"]} if trust else {}
    chances = {row["model"]: row["probability"] for row in selection["models"]} if selection else {}
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
            *([f"{100 * chances[contract.name]:.0f} %" if contract.name in chances else "dropped"] if chances else []),
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
        *(["selected"] if chances else []),
    )
    rest = f"\n\n{len(zoo) - _MOST_ROWS} more models are not listed." if len(zoo) > _MOST_ROWS else ""
    warnings = [f"\n\n{escape(found['warning'])}" for found in (health, trust) if found and found["warning"]]
    return _table(head, rows) + rest + "".join(warnings)


def _groups(folder: RunFolder) -> str:
    if not folder.has(GROUPING):
        return ""
    record = folder.read_json(GROUPING)
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
    lines = [head, tuple("---" for _ in head), *(tuple(escape(cell) for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape(text: str) -> str:
    """Text of foreign origin (names of models, classes, domains) that is only text in Markdown and in HTML."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~])", r"\\\1", " ".join(text.split()))
