"""Evaluation of several subjects with one head on the same episodes."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from metazoo.data import EpisodeList, ImageSet
from metazoo.errors import UsageError
from metazoo.evaluate.contamination import Contamination
from metazoo.evaluate.intervals import mean_interval
from metazoo.evaluate.protocol import Advance, evaluate_lists
from metazoo.evaluate.results import Result, Results, write_results
from metazoo.evaluate.subjects import Subject
from metazoo.features.batch_norm import batch_norm_mode, has_batch_norm
from metazoo.features.embedders import MirroredFeatures, for_known_domain, recogniser_of
from metazoo.features.heads import DEFAULT_HEAD, get_head
from metazoo.storage.artefacts import check_writable


def evaluate(
    subjects: Sequence[Subject],
    image_set: ImageSet,
    *,
    ways: int = 5,
    shots: Sequence[int] = (1, 5),
    episodes: int = 1000,
    queries: int = 15,
    head: str = DEFAULT_HEAD,
    batch_norm: str = "running",
    mirrored: bool = False,
    domain: str | None = None,
    seed: int = 0,
    out: Path | str | None = None,
    overwrite: bool = False,
    contamination: Contamination | None = None,
    advance: Advance | None = None,
) -> Results:
    """Evaluate every subject with one head on the same episodes.

    Args:
        subjects: rows of the table, with different names.
        image_set: images of classes that no subject was trained on.
        ways: number of classes per episode.
        shots: numbers of support images per class, with one list of episodes each.
        episodes: number of episodes per list, at least 2.
        queries: number of query images per class.
        head: name of a head in `metazoo.features.heads.HEADS`. Soft k-means heads use all queries of an episode.
        batch_norm: batch-norm mode `running`, `support` or `query`.
        mirrored: whether to use `MirroredFeatures`.
        domain: known domain of the images, for subjects of several domains; None recognises it from the images.
        seed: seed of the lists of episodes.
        out: path of RESULT.json, beside which the lists are written; see `write_results`. None writes no files.
        overwrite: whether to replace an existing `out` at the end.
        contamination: contamination to store in RESULT.json; see `find_contamination` and `exclude_known`.
        advance: callback with the number of episodes since the last call, of `len(subjects) * len(shots) * episodes`
            in total.

    Returns:
        Results by subject, then by shots.

    Raises:
        UsageError: an unknown head, mode or domain, an impossible N-way K-shot, or `out` exists or cannot be a result
            file.
        ArtefactError: `out` cannot be written.
        MetazooError: a subject's features are not finite.
    """
    chosen, mode = get_head(head), batch_norm_mode(batch_norm)
    _check(subjects, shots, episodes)
    if out is not None:
        _check_out(Path(out), overwrite)
    recognisers = [recogniser_of(subject.module) for subject in subjects]
    if domain is not None:
        # If no subject has several domains, the first raises the error.
        several = [recogniser is not None for recogniser in recognisers]
        subjects = [
            _for_domain(subject, domain) if own or not any(several) else subject
            for subject, own in zip(subjects, several, strict=True)
        ]
    lists = [EpisodeList.draw(image_set, ways, count, queries, episodes, seed) for count in shots]
    results = Results()
    accuracies: list[dict[str, Tensor]] = [{} for _ in lists]
    for subject, recogniser in zip(subjects, recognisers, strict=True):
        transductive = chosen.transductive or (mode == "query" and has_batch_norm(subject.module))
        if mirrored:
            subject = dataclasses.replace(subject, module=MirroredFeatures(subject.module))
        values_of_lists = evaluate_lists(subject, image_set, lists, chosen, mode, advance)
        for drawn, by_subject, values in zip(lists, accuracies, values_of_lists, strict=True):
            by_subject[subject.name] = values
            estimate = mean_interval(values)
            results.append(
                Result(
                    subject=subject.name,
                    method=subject.method,
                    subject_sha256=subject.sha256,
                    head=chosen.name,
                    batch_norm=mode,
                    mirrored=mirrored,
                    ways=ways,
                    shots=drawn.shots,
                    episodes=episodes,
                    seed=seed,
                    episode_list_sha256=drawn.sha256,
                    accuracy=estimate.mean,
                    interval=estimate.half_width,
                    queries=queries,
                    parameters=subject.parameters,
                    transductive=transductive,
                    image_set=image_set.name,
                    domains=None if recogniser is None else recogniser.domains,
                    unlabelled=subject.unlabelled or None,
                    validated=subject.validated,
                    domain=None if recogniser is None else domain,
                )
            )
    if out is not None:
        write_results(out, results, lists, accuracies, contamination)
    return results


def _for_domain(subject: Subject, domain: str) -> Subject:
    known = Subject.of(subject.name, subject.method, for_known_domain(subject.module, domain), subject.sha256)
    return dataclasses.replace(known, unlabelled=subject.unlabelled, validated=subject.validated)


def _check(subjects: Sequence[Subject], shots: Sequence[int], episodes: int) -> None:
    names = [subject.name for subject in subjects]
    if not names or len(set(names)) < len(names):
        raise UsageError("subjects", f"names {names}", "give at least one, with different names")
    if not shots or len(set(shots)) < len(shots):
        raise UsageError("shots", f"must be one or more different numbers, not {list(shots)}")
    if episodes < 2:
        raise UsageError("episodes", f"must be at least 2 for an interval, not {episodes}", "ask for more episodes")


def _check_out(out: Path, overwrite: bool) -> None:
    if out.suffix.lower() != ".json" or out.is_dir():
        raise UsageError(out, "cannot be a result file", "give a path that ends in .json and is not a folder")
    if out.exists() and not overwrite:
        raise UsageError(out, "exists", "give another path or --overwrite")
    check_writable(out, "choose another path")
