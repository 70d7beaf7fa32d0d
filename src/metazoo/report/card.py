"""The model card of a meta-model: what it is, what it was made of, and how to use it. No figure is invented here."""

import re
from collections import Counter
from typing import Any

import yaml

from metazoo.adapt import MetaModel
from metazoo.learn.embedders import count_parameters, recogniser_of
from metazoo.learn.recogniser import DomainRecogniser
from metazoo.methods.config import RunConfig
from metazoo.methods.recipes import SourceRecipe
from metazoo.methods.selection import SELECTION
from metazoo.methods.stages import GROUPING, HEALTH
from metazoo.methods.trust import TRUST
from metazoo.run.folder import RunFolder
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
    spec, recogniser = meta_model.spec, recogniser_of(meta_model.module)
    health, trust, selection = (
        folder.read_json(name) if folder.has(name) else None for name in (HEALTH, TRUST, SELECTION)
    )
    source = getattr(config.recipe, "source", SourceRecipe())
    parts = [
        _front_matter(config, data_free=selection is None and source.data is None),
        f"# Meta-model by {config.method.title}",
        f"A few-shot image classifier learned from {_counted(len(zoo), 'pre-trained model')} and "
        f"{_images_used(source, selection)}. It turns an image into features; a new task is learned from 1 to 5 images "
        "a class.",
        "## Use",
        _USE,
        "## What it is",
        _table(
            ("property", "value"),
            [
                ("architecture", spec.architecture + "".join(f", {k} {v}" for k, v in spec.arguments.items())),
                (
                    "input",
                    f"{spec.input_size} x {spec.input_size} pixels, {_counted(spec.channels, 'channel')}, in [0, 1]",
                ),
                ("features", str(meta_model.networks[0].network.feature_size)),
                *([("domains", _domains(recogniser))] if recogniser else []),
                ("parameters", f"{count_parameters(meta_model.module):,}, class head not counted"),
                ("method", f"{config.method.reference}; setting {config.setting}, seed {config.seed}"),
                ("made with", ", ".join(f"{name} {version}" for name, version in description["versions"].items())),
                ("zoo", f"{_counted(len(zoo), 'model')}, SHA-256 {zoo.sha256}"),
            ],
        ),
        _no_accuracy(source, selection),
        "## What it was made of",
        _models(zoo, health, trust, selection),
        _groups(folder),
        "## What it may reveal",
        _recovered_images(zoo, source, description.get("images", True)),
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


def _domains(recogniser: DomainRecogniser) -> str:
    return (
        f"{', '.join(recogniser.domains)}, with a network for each; a new task takes the features of those that its "
        "images look like"
    )


def _front_matter(config: RunConfig, *, data_free: bool) -> str:
    content = {
        "library_name": "metazoo",
        "pipeline_tag": "image-classification",
        "tags": ["few-shot-learning", "meta-learning", *(["data-free"] if data_free else []), config.method.name],
    }
    return f"---\n{yaml.safe_dump(content, sort_keys=False)}---"


def _images_used(source: SourceRecipe, selection: dict[str, Any] | None) -> str:
    used = [
        *(["real images of their classes"] if source.data is not None else []),
        *(["some labelled images to select among them"] if selection is not None else []),
    ]
    return " and ".join(used) or "**no training images**"


def _no_accuracy(source: SourceRecipe, selection: dict[str, Any] | None) -> str:
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
        f"The models to learn from were selected by accuracy on {_counted(seen['images'], 'labelled image')} of "
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


def _recovered_images(zoo: Zoo, source: SourceRecipe, images: bool) -> str:
    if source.kind not in ("recovered", "images"):
        return "No image was recovered: those that it learned from were drawn by chance and formulas, and show no data."
    permissions = Counter(contract.recovered_images for contract in zoo)
    if not images:
        permissions["keep"] += permissions.pop("show", 0)
    fates = {
        "show": "are kept in the run folder (`bank`) and shown as contact sheets there (`recovered`)",
        "keep": "are kept in the run folder (`bank`) and shown nowhere",
        "discard": "were deleted once the run had finished",
    }
    sentences = [
        f"Those of {_counted(permissions[permission], 'model')} {fate}."
        for permission, fate in fates.items()
        if permissions[permission]
    ]
    risk = (
        "Images recovered from a model can resemble those it was trained on."
        if source.data is None
        else "In the place of recovered images the run folder holds real ones."
    )
    return (
        f"{risk} {' '.join(sentences)} No image lies beside this card. The meta-model was learned from them and from "
        "what the models say of them, so it can carry traces of the same training images."
    )


def _groups(folder: RunFolder) -> str:
    if not folder.has(GROUPING):
        return ""
    record = folder.read_json(GROUPING)
    quality = record["quality"]
    means = quality["group_means"]
    rows = [
        (str(number + 1), ", ".join(members[:12]) + (", ..." if len(members) > 12 else ""), _figure(means[number]))
        for number, members in enumerate(record["groups"])
    ]
    figures = [(quality["within_mean"], "within groups"), (quality["between_mean"], "between them")]
    known = [f"{_figure(value)} {place}" for value, place in figures if value is not None]
    sentence = f"Groups are {record['strategy']}" + (f": mean dissimilarity {', '.join(known)}." if known else ".")
    return f"{sentence}\n\n{_table(('group', 'models', 'mean dissimilarity'), rows)}"


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *(tuple(escape(cell) for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape(text: str) -> str:
    """Text of foreign origin (names of models, classes, domains) that is only text in Markdown and in HTML."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~])", r"\\\1", " ".join(text.split()))
