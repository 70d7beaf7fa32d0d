"""Results of evaluations: accuracies with their protocol, result files, and tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.table import Table
from rich.text import Text
from torch import Tensor

from metazoo.data import EpisodeList
from metazoo.data.unlabelled import use_of_data
from metazoo.errors import ArtefactError
from metazoo.evaluate.contamination import Contamination
from metazoo.features.batch_norm import BatchNormMode
from metazoo.notebook import ShownInNotebook
from metazoo.storage.artefacts import read_json, write_json
from metazoo.storage.tensor_files import read_tensor_metadata, read_tensors, write_tensors
from metazoo.storage.validation import first_problem

FORMAT_VERSION = 1


class Result(BaseModel, ShownInNotebook):
    """Accuracy of one subject on one list of episodes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    subject: str
    method: str
    subject_sha256: str | None = Field(
        default=None, description="SHA-256 of the weights of a meta-model, or of the contracts of a zoo"
    )
    head: str
    batch_norm: BatchNormMode
    mirrored: bool = Field(default=False, description="whether features are means over an image and its mirror image")
    ways: int = Field(ge=2)
    shots: int = Field(ge=1)
    episodes: int = Field(ge=2)
    seed: int = Field(description="seed of the episodes")
    episode_list_sha256: str
    accuracy: float = Field(ge=0, le=100, description="mean accuracy over the episodes in percent")
    interval: float = Field(ge=0, description="half-width of the 95 % interval over the episodes in percent")
    queries: int = Field(ge=1, description="number of query images per class")
    parameters: int = Field(ge=0, description="number of parameters that the features depend on")
    transductive: bool = Field(description="whether the queries of an episode influence each other")
    image_set: str
    domains: tuple[str, ...] | None = Field(
        default=None, description="domains of the meta-model; None for a single domain"
    )
    unlabelled: int | None = Field(
        default=None, ge=1, description="number of unlabelled images that the subject learned from; None for none"
    )
    validated: bool = Field(
        default=False, description="whether labelled validation images directed the run of the subject"
    )
    domain: str | None = Field(default=None, description="known domain of the tasks; None if it was not given")


class Results(list[Result], ShownInNotebook):
    """List of results that a notebook shows as a table."""


class _ResultFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format_version: Literal[1]
    results: list[Result]
    contamination: Contamination | None = None


def write_results(
    out: Path | str,
    results: Sequence[Result],
    lists: Sequence[EpisodeList],
    accuracies: Sequence[Mapping[str, Tensor]],
    contamination: Contamination | None = None,
) -> None:
    """Write RESULT.json, after two files beside it for every list of episodes.

    These are `RESULT.episodes-5way-1shot.safetensors`, the episodes, and `RESULT.accuracies-5way-1shot.safetensors`,
    the accuracy of every subject on every episode for paired comparison.

    Raises:
        ArtefactError: a file cannot be written.
    """
    out = Path(out)
    for episodes, by_subject in zip(lists, accuracies, strict=True):
        episodes.save(_beside(out, "episodes", episodes.ways, episodes.shots))
        metadata = {"format_version": str(FORMAT_VERSION), "episode_list_sha256": episodes.sha256}
        write_tensors(_beside(out, "accuracies", episodes.ways, episodes.shots), by_subject, metadata)
    file = _ResultFile(format_version=FORMAT_VERSION, results=list(results), contamination=contamination)
    write_json(out, file.model_dump(mode="json", exclude_none=True))


def read_results(path: Path | str) -> Results:
    """Read the results in RESULT.json.

    Raises:
        ArtefactError: the file is missing or not a result file of this format version.
    """
    return Results(_read(path).results)


def read_contamination(path: Path | str) -> Contamination | None:
    """Read the contamination in RESULT.json; None if it was not examined.

    Raises:
        ArtefactError: the file is missing or not a result file of this format version.
    """
    return _read(path).contamination


def _read(path: Path | str) -> _ResultFile:
    try:
        return _ResultFile.model_validate(read_json(path))
    except ValidationError as error:
        problem = f"is not a result file of format version {FORMAT_VERSION} ({first_problem(error)})"
        raise ArtefactError(path, problem, "evaluate again") from error


def read_accuracies(path: Path | str, result: Result) -> Tensor:
    """Read the accuracy on every episode in percent, float64 [episodes], for one result of a file.

    Args:
        path: path of RESULT.json.
        result: result from this file.

    Raises:
        ArtefactError: the file of accuracies is missing or belongs to other episodes.
    """
    beside = _beside(Path(path), "accuracies", result.ways, result.shots)
    tensors = read_tensors(beside)
    fits = read_tensor_metadata(beside).get("episode_list_sha256") == result.episode_list_sha256
    if not fits or result.subject not in tensors or tensors[result.subject].shape != (result.episodes,):
        raise ArtefactError(beside, f"does not belong to {path}", "evaluate again")
    return tensors[result.subject]


def results_table(results: Sequence[Result]) -> Table:
    """Table for a rich console: accuracy ± interval in percent, one row per subject, one column per task."""
    tasks = list(dict.fromkeys((result.ways, result.shots) for result in results))
    table = Table(title=Text(_title(results)), caption=Text(_caption(results)))
    table.add_column("subject")
    for ways, shots in tasks:
        table.add_column(f"{ways}-way {shots}-shot", justify="right")
    table.add_column("parameters", justify="right")
    for subject in dict.fromkeys(result.subject for result in results):
        rows = [result for result in results if result.subject == subject]
        cells = {(row.ways, row.shots): f"{row.accuracy:.1f} ± {row.interval:.1f}" for row in rows}
        table.add_row(Text(subject), *(cells.get(task, "") for task in tasks), f"{rows[0].parameters:,}")
    return table


def _title(results: Sequence[Result]) -> str:
    protocols = dict.fromkeys(
        f"{result.head}, batch norm {result.batch_norm}, {'mirrored, ' if result.mirrored else ''}"
        f"{result.episodes} episodes of {result.image_set}, seed {result.seed}"
        for result in results
    )
    return "; ".join(protocols)


def _caption(results: Sequence[Result]) -> str:
    caption = "accuracy in percent ± half-width of the 95 % interval over episodes"
    caption += "; queries influence each other (transductive)" if any(r.transductive for r in results) else ""
    used = dict.fromkeys((result.subject, use_of_data(result.unlabelled, result.validated)) for result in results)
    caption += "".join(f"; {subject}: {data}, not data-free" for subject, data in used if data)
    known = dict.fromkeys(result.domain for result in results if result.domain is not None)
    return caption + "".join(f"; known domain {domain}" for domain in known)


def _beside(out: Path, kind: str, ways: int, shots: int) -> Path:
    return out.with_name(f"{out.stem}.{kind}-{ways}way-{shots}shot.safetensors")
