"""Every suite runs, and what it compares with computes what metazoo computes."""

import itertools
import json
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.__main__ import main
from benchmarks.measure import Effort, Settings
from benchmarks.runner import run_suite
from benchmarks.suites import SUITES
from benchmarks.suites.evaluation import KnownFeatures, episode_by_episode
from benchmarks.suites.examples import classifier, image_set, pixels, random, teacher
from benchmarks.suites.recovery import published_inversion, recovered
from benchmarks.suites.regularisation import library_losses, published_direction, tasks_of
from benchmarks.suites.replay import RATE, STEPS, episode_from_pictures, published_gradient, write_pictures
from benchmarks.suites.task_space import (
    fisher_sample_by_sample,
    published_fisher,
    published_groups,
    published_similarity,
)
from metazoo.data import EpisodeList
from metazoo.evaluate import Subject, evaluate_lists
from metazoo.execution.threads import ThreadCopies
from metazoo.features.batch_norm import batch_statistics
from metazoo.features.heads import get_head
from metazoo.learn.episode_gradients import EpisodeGradients
from metazoo.learn.episode_memory import EpisodeMemory
from metazoo.learn.learners import FunctionalClassifier, build_learner
from metazoo.learn.regularisers import ImplicitRegularisation
from metazoo.recover import GeneratorConfig
from metazoo.taskspace import (
    PUBLISHED_DECIMALS,
    PUBLISHED_EPSILON,
    FisherEmbeddings,
    TaskEmbedding,
    diagonal_fisher,
    dissimilarity_matrix,
    group,
    similarity_matrix,
)
from metazoo.taskspace.fisher import absorbed_biases

SIDE, WIDTH = 16, 4
STARTS_TORCH = "freed-memory"


def close(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    assert found.keys() == wanted.keys()
    return all(torch.allclose(found[name], wanted[name], rtol=1e-3, atol=1e-6) for name in found)


# The suite starts processes that bring in torch.
@pytest.mark.parametrize(
    "name", [*sorted(SUITES.keys() - {STARTS_TORCH}), pytest.param(STARTS_TORCH, marks=pytest.mark.slow)]
)
def test_a_suite_runs(name: str) -> None:
    cases = SUITES[name].cases(Settings(quick=True))
    twice = Effort(rounds=1, least=1)  # with one to warm up, since no way may change what another meets
    record = run_suite(SUITES[name], Settings(quick=True), twice, memory=False)
    assert [case["name"] for case in record["cases"]] == [case.name for case in cases]
    for case in record["cases"]:
        assert len(case["ways"]) >= 2
        assert all(way["seconds"]["median"] > 0 for way in case["ways"])
        assert case["ways"][0]["ratio"]["median"] == 1
    axes = {case.axis for case in cases if case.axis and len([c for c in cases if c.axis == case.axis]) > 1}
    assert {row["axis"] for row in record["growth"]} == axes


@pytest.mark.parametrize("name", SUITES)
def test_the_cases_of_a_suite_have_names_of_their_own_and_name_estimates_that_exist(name: str) -> None:
    for settings in (Settings(quick=True), Settings()):
        cases = SUITES[name].cases(settings)
        assert len({case.name for case in cases}) == len(cases) >= 1
    for case in SUITES[name].cases(Settings(quick=True)):
        assert set(case.estimates) <= set(case.prepare()) if case.estimates else True


def test_inversion_gives_the_images_of_the_library() -> None:
    subject, labels = teacher(side=SIDE, width=WIDTH), torch.arange(5).repeat(2)
    config = GeneratorConfig(iterations=4, latent=8, width=4)
    images = published_inversion(subject, labels, config, random())
    found = recovered(subject, labels, config)
    assert (images * 255 - found.images.float()).abs().max() <= 1
    assert not any(parameter.requires_grad for parameter in subject.parameters())


def test_fishers_are_those_of_the_library() -> None:
    model, images, labels = classifier(side=SIDE, width=WIDTH), pixels(12, SIDE).float() / 255, torch.arange(12) % 5
    published = diagonal_fisher(model, images, labels, chunk=4, batch_squared=True)
    absorbed = absorbed_biases(model, images[:1])

    def kept(fisher: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value for name, value in fisher.items() if name not in absorbed}

    assert len(absorbed) == 4
    assert close(kept(published_fisher(model, images, labels, 4)), published)
    by_sample = fisher_sample_by_sample(model, images, labels)
    assert close(kept(by_sample), diagonal_fisher(model, images, labels, chunk=5))


def test_similarity_and_groups_are_those_of_the_library() -> None:
    draws = random()
    fishers = [{"a": torch.rand(9, generator=draws), "b": torch.rand(3, 4, generator=draws)} for _ in range(12)]
    embeddings = FisherEmbeddings.stack([TaskEmbedding(f"{n:02}", fisher) for n, fisher in enumerate(fishers)])
    wanted = similarity_matrix(embeddings, absolute_epsilon=PUBLISHED_EPSILON, decimals=PUBLISHED_DECIMALS)
    similarity = published_similarity(fishers)
    assert torch.allclose(similarity, wanted, atol=1.01e-4)
    grouping = group(dissimilarity_matrix(similarity), "spectral", 5, keys=embeddings.names)
    found = published_groups(similarity)
    for members in grouping.groups:
        assert len({int(found[index]) for index in members}) == 1


def test_the_published_direction_is_the_total_derivative_of_the_library() -> None:
    student, tasks = classifier(side=SIDE, width=WIDTH, seed=99), tasks_of(3, 10, SIDE, WIDTH)
    parameters = {name: value.detach() for name, value in student.named_parameters()}
    regulariser = ImplicitRegularisation(1e-2, 1e-2, differentiate_displacement=True)
    with batch_statistics(student):
        wanted = regulariser.direction(library_losses(ThreadCopies(student), tasks), parameters).gradient
        assert close(published_direction(student, tasks, 1e-2), wanted)


def test_the_published_replay_gives_the_gradient_of_the_library() -> None:
    student = classifier(side=SIDE, width=WIDTH, classes=3)
    memory = EpisodeMemory(4)
    memory.add(pixels(80, SIDE), torch.arange(4).repeat_interleave(20))
    draws = random()
    episodes = [memory.draw(3, 1, 15, draws) for _ in range(2)]
    parameters = {name: value.detach() for name, value in student.named_parameters()}
    learner = build_learner("maml", steps=STEPS, learning_rate=RATE)
    with batch_statistics(student):
        wanted = EpisodeGradients(learner, FunctionalClassifier(student), parameters)(episodes).gradient
        assert close(published_gradient(student, episodes), wanted)


def test_an_episode_from_pictures_holds_different_images_of_its_classes(tmp_path: Path) -> None:
    images, identities = pixels(60, SIDE), torch.arange(3).repeat_interleave(20)
    write_pictures(tmp_path, images, identities)
    episode = episode_from_pictures(tmp_path, 2, 1, random())
    shown = torch.cat([episode.support_images, episode.query_images]).mul(255).round().to(torch.uint8)
    places = [[int((images == one).flatten(1).all(1).nonzero()) for one in part] for part in shown.split(1)]
    of_class = identities[list(itertools.chain(*places))]
    assert len({place for (place,) in places}) == 32
    labels = torch.cat([episode.support_labels, episode.query_labels])
    assert len({(int(label), int(identity)) for label, identity in zip(labels, of_class, strict=True)}) == 2


def test_evaluation_gives_the_accuracies_of_the_library() -> None:
    images, model = image_set(4, 25, SIDE), classifier(side=SIDE, width=WIDTH)
    episodes, head = EpisodeList.draw(images, 3, 5, 15, 6), get_head("nearest-mean")
    (wanted,) = evaluate_lists(Subject.of("a", "a", model), images, [episodes], head)
    assert torch.equal(episode_by_episode(model, images, episodes, 6), wanted)
    numbered = KnownFeatures.numbered(images)
    with torch.no_grad():
        known = KnownFeatures(model.features(images.images.float() / 255))
    same = EpisodeList.draw(numbered, 3, 5, 15, 6)
    (found,) = evaluate_lists(Subject.of("b", "b", known), numbered, [same], head)
    assert torch.equal(found, wanted)


def test_the_command_keeps_json_that_it_can_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "figures.json"
    main(["targets", "--quick", "--out", str(out), "--markdown"])
    printed = capsys.readouterr().out
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["format_version"] == 1
    assert record["machine"]["versions"]["torch"] == version("torch")
    assert list(record["suites"]) == ["targets"]
    main(["--show", str(out)])
    shown = capsys.readouterr().out
    assert shown.strip() in printed
    names = [case["name"] for case in record["suites"]["targets"]["cases"]]
    single = tmp_path / "single.json"
    main(["targets", "--quick", "--only", names[0], "--out", str(single)])
    (case,) = json.loads(single.read_text(encoding="utf-8"))["suites"]["targets"]["cases"]
    assert case["name"] == names[0]
    capsys.readouterr()
    main(["--show", str(single), str(out)])  # the later counts, and together they grow
    assert capsys.readouterr().out == shown
    with pytest.raises(SystemExit):
        main(["no-such-suite"])
