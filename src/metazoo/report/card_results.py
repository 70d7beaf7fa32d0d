"""Results of evaluations in the card of a meta-model."""

from collections.abc import Sequence
from pathlib import Path

from metazoo.adapt.card import escape
from metazoo.adapt.front_matter import with_results
from metazoo.errors import UsageError
from metazoo.evaluate import Contamination, Result, read_contamination, read_results
from metazoo.text import printable

_HEAD = ("images", "task", "accuracy", "head", "batch norm", "episodes", "remarks")


def card_with_results(card: str, sha256: str, paths: Sequence[Path | str]) -> str:
    """Card with the results of its meta-model, with their protocol and contamination, in the text and the front matter.

    Args:
        card: card of the meta-model.
        sha256: SHA-256 of its weights; results of others, such as baselines, are left out.
        paths: result files.

    Raises:
        UsageError: a file holds no result of this meta-model.
        ArtefactError: a file is missing or not a result file.
    """
    rows: list[Result] = []
    texts = ["Accuracy: mean ± half-width of the 95 % interval over episodes, in percent."]
    for path in paths:
        own = [result for result in read_results(path) if result.subject_sha256 == sha256]
        if not own:
            raise UsageError(path, "holds no result of this meta-model", "evaluate the one that is shared")
        found = _contamination(read_contamination(path), own[0].image_set)
        texts += [text for text in found if text not in texts]
        rows += own
    lines = [_HEAD, ("---",) * len(_HEAD), *(tuple(escape(printable(cell)) for cell in _cells(row)) for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return with_results(card, [row.model_dump() for row in rows], "\n\n".join([table, *texts]))


def _cells(row: Result) -> tuple[str, ...]:
    remarks = ("mirrored", row.mirrored), ("transductive", row.transductive), (f"domain {row.domain}", row.domain)
    return (
        row.image_set,
        f"{row.ways}-way {row.shots}-shot, {row.queries} queries per class",
        f"{row.accuracy:.1f} ± {row.interval:.1f}",
        row.head,
        row.batch_norm,
        f"{row.episodes}, seed {row.seed}",
        ", ".join(text for text, applies in remarks if applies),
    )


def _contamination(found: Contamination | None, data: str) -> list[str]:
    if found is None:
        return ["Contamination: not examined."]
    texts = [f"Contamination: {escape(text)}." for text in found.warnings(data)]
    if found.excluded and found.known:
        texts.append(f"Contamination: {len(found.known)} classes of the source models, by name, were left out.")
    plain = f"Contamination: no class of {escape(printable(data))} has the name of a class of a source model."
    return texts or [plain]
