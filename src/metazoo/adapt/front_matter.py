"""Front matter of a card, which model hubs read: licence, tags and results."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import yaml

UNKNOWN = "unknown"
_TASK = "image-classification"
_RESULTS = re.compile(r"## Results\n.*?(?=\n## |\Z)", re.DOTALL)
_FRONT = re.compile(r"---\n(.*?\n)---\n?", re.DOTALL)
_LICENCES = """
afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 cc cc0-1.0
cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0
cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cdla-permissive-1.0
cdla-permissive-2.0 cdla-sharing-1.0 ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 gfdl gpl gpl-2.0 gpl-3.0
isc lgpl lgpl-2.1 lgpl-3.0 mit mpl-2.0 ms-pl ncsa odbl odc-by openrail osl-3.0 pddl postgresql unlicense wtfpl zlib
"""
LICENCES = frozenset(_LICENCES.split())
"""Identifiers of licences that the Hugging Face Hub knows, without those of single models."""


def front_matter(tags: Iterable[str], licences: Collection[str | None] = (), origin: str | None = None) -> str:
    """Front matter of the card of a bundle.

    Args:
        tags: tags besides those of all bundles.
        licences: licence of every source model; None if it is unknown.
        origin: hf:OWNER/NAME@COMMIT of the meta-model that a classifier is made from.
    """
    content: dict[str, Any] = {"library_name": "metazoo", "pipeline_tag": _TASK}
    content |= {"tags": ["few-shot-learning", "meta-learning", *tags]}
    content |= _licence(licences)
    if origin is not None:
        content["base_model"] = origin.removeprefix("hf:").partition("@")[0]
    return _text(content)


def licences_of(card: str) -> tuple[str, ...]:
    """Licences in the front matter of a card, of its source models if they are listed; empty if there is none.

    The card may be of anyone: its values are read as texts, and what is no text or list of texts is left out.
    """
    content = _split(card, _texts)[0]
    found = content.get("source_licences") or content.get("license") or ()
    return tuple(one for one in (found if isinstance(found, list) else [found]) if isinstance(one, str))


def with_results(card: str, results: Sequence[Mapping[str, Any]], text: str) -> str:
    """Card with results, in its front matter and instead of its former section of results.

    Args:
        card: card of a meta-model; one without front matter gets it.
        results: records of `Result`, all of this meta-model.
        text: Markdown of the results, without a title.
    """
    content, body = _split(card)
    content |= {"metrics": ["accuracy"], "model-index": [_index(results)]}
    section = f"## Results\n\n{text}\n"
    replaced, count = _RESULTS.subn(lambda _: section, body, count=1)
    return f"{_text(content)}\n" + (replaced if count else f"{body.rstrip()}\n\n{section}")


def _split(card: str, read: Callable[[str], Any] = yaml.safe_load) -> tuple[dict[str, Any], str]:
    """Front matter and text; a card without a mapping in front of it is all text."""
    match = _FRONT.match(card)
    try:
        content = read(match[1]) if match else None
    except (yaml.YAMLError, ValueError, RecursionError):  # such as an impossible date, or lists nested too deeply
        content = None
    return (content, card[match.end() :]) if match and isinstance(content, dict) else ({}, card)


def _texts(text: str) -> Any:
    """Lists and mappings of texts, without conversions and merges, which can take any amount of memory."""
    return yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506 - it makes nothing else


def _index(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"name": results[0]["subject"], "results": [_entry(result) for result in results]}


def _entry(result: Mapping[str, Any]) -> dict[str, Any]:
    task = f"{result['ways']}-way {result['shots']}-shot classification"
    # With the task, since readers may join the metrics of one data set.
    name = (
        f"accuracy in percent, {task}, ± {result['interval']:.2f} (95 % interval over {result['episodes']} episodes; "
        f"head {result['head']}, batch norm {result['batch_norm']})"
    )
    return {
        "task": {"type": _TASK, "name": task},
        "dataset": {"type": result["image_set"], "name": result["image_set"]},
        "metrics": [{"type": "accuracy", "value": round(result["accuracy"], 2), "name": name}],
    }


def _licence(licences: Collection[str | None]) -> dict[str, Any]:
    """Licence of the models if it is the same and the hub knows it; nothing if no licence is known."""
    found = sorted({"-".join((licence or UNKNOWN).lower().split()) for licence in licences})
    if found in ([], [UNKNOWN]):
        return {}
    if len(found) == 1 and found[0] in LICENCES:
        return {"license": found[0]}
    return {"license": "other", "license_name": "licences-of-the-source-models", "source_licences": found}


def _text(content: Mapping[str, Any]) -> str:
    return f"---\n{yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)}---"
