"""Measurement of a subject by the protocol of a study, while it learns or in the end."""

from typing import Any

from metazoo.data import ImageSet
from metazoo.evaluate import Results, Subject, evaluate
from metazoo.execution.signals import check_stop
from metazoo.study.study_file import Protocol


def measure(
    subject: Subject, images: ImageSet, protocol: Protocol, *, head: str, batch_norm: str, episodes: int, **options: Any
) -> Results:
    """Evaluate a subject by a protocol, with another head, batch-norm mode or number of episodes.

    Args:
        subject: subject to evaluate.
        images: images of unseen classes.
        protocol: protocol of the study.
        head: name of the head.
        batch_norm: batch-norm mode.
        episodes: number of episodes per list.
        **options: further options of `evaluate`.

    Raises:
        Interrupted: a stop was requested.
        MetazooError: an error of `evaluate`.
    """
    return evaluate(
        [subject],
        images,
        ways=protocol.ways,
        shots=protocol.shots,
        episodes=episodes,
        queries=protocol.queries,
        head=head,
        batch_norm=batch_norm,
        mirrored=protocol.mirror,
        seed=protocol.seed,
        advance=lambda _: check_stop(),
        **options,
    )
