import pytest
import torch
from error_checks import raises
from evaluate_helpers import classifier, noise_images, of_two_domains
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from torch import Tensor, nn
from torch.nn import functional

from metazoo.data import Episode, EpisodeList, ImageSet
from metazoo.errors import Interrupted, MetazooError, UsageError
from metazoo.evaluate import Subject, evaluate_lists
from metazoo.evaluate.protocol import score_episode
from metazoo.features.batch_norm import BATCH_NORM_MODES, BatchNormMode
from metazoo.features.embedders import Embedder, JointFeatures, PixelFeatures
from metazoo.features.episode_accuracy import episode_accuracies, used_images
from metazoo.features.heads import HEADS, FeatureHead, FineTune, Head, NearestMean

FEATURE_HEADS = [head for head in HEADS if isinstance(head, FeatureHead)]


class Spy(nn.Module):
    """Embedder with pixels as features that counts images."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def features(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return images.flatten(1)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return noise_images(colour=0.03)


@pytest.fixture(scope="module")
def lists(images: ImageSet) -> list[EpisodeList]:
    return [EpisodeList.draw(images, 3, shots, queries=5, episodes=12, seed=1) for shots in (1, 4)]


def subject(module: Embedder | None = None) -> Subject:
    return Subject.of("somebody", "some", module or classifier())


def one_by_one(
    module: Embedder, images: ImageSet, episodes: EpisodeList, head: Head, mode: BatchNormMode
) -> list[float]:
    accuracies = []
    for episode in episodes:
        scores = score_episode(module, images, episode, head, mode)
        accuracies.append(100 * (scores.argmax(1) == episode.query_labels).double().mean().item())
    return accuracies


@pytest.mark.parametrize(
    "module", [classifier(), JointFeatures([classifier(), classifier(1, "thin-resnet")]), of_two_domains()]
)
@pytest.mark.parametrize("head", FEATURE_HEADS, ids=lambda head: head.name)
def test_episodes_solved_together_equal_one_by_one(
    images: ImageSet, lists: list[EpisodeList], module: Embedder, head: FeatureHead
) -> None:
    together = evaluate_lists(subject(module), images, lists, head)
    for episodes, accuracies in zip(lists, together, strict=True):
        assert accuracies.dtype == torch.float64
        assert accuracies.tolist() == pytest.approx(one_by_one(module, images, episodes, head, "running"))
        assert len(set(accuracies.tolist())) > 2


def test_accuracies_are_those_of_the_nearest_centroid(images: ImageSet, lists: list[EpisodeList]) -> None:
    module = classifier()
    with torch.no_grad():
        features = functional.normalize(module.features(images.images / 255), dim=1).numpy()
    for episodes in lists:
        expected = []
        for episode in episodes:
            support, labels = features[episode.support_indices], episode.support_labels.numpy()
            if episodes.shots == 1:
                oracle = KNeighborsClassifier(1).fit(support, labels)
            else:
                oracle = NearestCentroid().fit(support, labels)
                # On the unit sphere the cosine ranks as the distance does once the centroids are on it too.
                oracle.centroids_ /= (oracle.centroids_**2).sum(1, keepdims=True) ** 0.5
            predicted = oracle.predict(features[episode.query_indices])
            expected.append(100 * float((predicted == episode.query_labels.numpy()).mean()))
        assert evaluate_lists(subject(module), images, [episodes], NearestMean())[0].tolist() == pytest.approx(expected)


def test_blocks_of_episodes_do_not_change_accuracies(images: ImageSet, lists: list[EpisodeList]) -> None:
    used = used_images(*lists)
    features = images.images[used].flatten(1)[:, :40].float()
    for episodes in lists:
        blocks: list[int] = []
        whole = episode_accuracies(features, used, episodes, NearestMean())
        in_blocks = episode_accuracies(
            features,
            used,
            episodes,
            NearestMean(),
            blocks.append,
            numbers_at_once=40 * episodes.query_indices[:3].numel(),
        )
        assert torch.equal(in_blocks, whole)
        assert set(blocks[:-1]) == {3}


@pytest.mark.parametrize("head", FEATURE_HEADS, ids=lambda head: head.name)
def test_every_image_is_embedded_once_for_all_lists(
    images: ImageSet, lists: list[EpisodeList], head: FeatureHead
) -> None:
    spy = Spy()
    evaluate_lists(subject(spy), images, lists, head)
    used = {*lists[0].support_indices.flatten().tolist(), *lists[0].query_indices.flatten().tolist()}
    used |= {*lists[1].support_indices.flatten().tolist(), *lists[1].query_indices.flatten().tolist()}
    assert spy.seen == len(used)


@pytest.mark.parametrize("head", [*HEADS], ids=lambda head: head.name)
@pytest.mark.parametrize("mode", BATCH_NORM_MODES)
def test_only_mode_query_and_transductive_heads_let_queries_influence_each_other(
    images: ImageSet, lists: list[EpisodeList], head: Head, mode: BatchNormMode
) -> None:
    module, episode = classifier(), lists[1][0]
    scores = score_episode(module, images, episode, head, mode)
    fewer = Episode(episode.support_indices, episode.query_indices[:4], episode.class_indices)
    alone = score_episode(module, images, fewer, head, mode)
    assert torch.allclose(alone, scores[:4], atol=1e-5) == (mode != "query" and not head.transductive)


@pytest.mark.parametrize("head", [*HEADS], ids=lambda head: head.name)
@pytest.mark.parametrize("mode", BATCH_NORM_MODES)
def test_no_head_or_mode_changes_the_subject(
    images: ImageSet, lists: list[EpisodeList], head: Head, mode: BatchNormMode
) -> None:
    module = classifier()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    accuracies = evaluate_lists(subject(module), images, [lists[1]], head, mode)[0]
    assert accuracies.tolist() == pytest.approx(one_by_one(module, images, lists[1], head, mode))
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert not module.training


def test_modes_differ_only_for_modules_with_batch_norm(images: ImageSet, lists: list[EpisodeList]) -> None:
    def accuracies(module: Embedder) -> set[tuple[float, ...]]:
        modes = BATCH_NORM_MODES
        return {tuple(evaluate_lists(subject(module), images, [lists[1]], NearestMean(), m)[0].tolist()) for m in modes}

    assert len(accuracies(classifier())) == 3
    assert len(accuracies(PixelFeatures(8))) == 1


@pytest.mark.parametrize("mode", BATCH_NORM_MODES)
def test_progress_counts_every_episode(images: ImageSet, lists: list[EpisodeList], mode: BatchNormMode) -> None:
    calls: list[int] = []
    evaluate_lists(subject(), images, lists, NearestMean(), mode, calls.append)
    assert sum(calls) == 24


def test_a_list_of_other_images_is_refused(lists: list[EpisodeList]) -> None:
    with raises(UsageError) as caught:
        evaluate_lists(subject(), noise_images(), lists, NearestMean())
    assert "noise" in str(caught.value)


def test_an_unknown_mode_is_refused(images: ImageSet, lists: list[EpisodeList]) -> None:
    with raises(UsageError, subject="batch norm", problem="'test'", remedy="running, support, query"):
        evaluate_lists(subject(), images, lists, NearestMean(), "test")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("head", [*HEADS], ids=lambda head: head.name)
def test_a_broken_subject_is_named(images: ImageSet, lists: list[EpisodeList], head: Head) -> None:
    module = classifier()
    next(module.parameters()).fill_(torch.nan)
    with raises(MetazooError, subject="somebody", problem="not finite"):
        evaluate_lists(subject(module), images, lists, head)


def test_mode_running_needs_stored_statistics(images: ImageSet, lists: list[EpisodeList]) -> None:
    module = classifier()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean = part.running_var = None
    with raises(UsageError, subject="somebody", problem="statistics", remedy="support or query"):
        evaluate_lists(subject(module), images, lists, NearestMean())
    assert len(evaluate_lists(subject(module), images, lists, NearestMean(), "query")) == 2


@pytest.mark.parametrize("head", [NearestMean(), FineTune()], ids=lambda head: head.name)
def test_an_interruption_is_not_wrapped(images: ImageSet, lists: list[EpisodeList], head: Head) -> None:
    def stop(_episodes: int) -> None:
        raise Interrupted("stopped by SIGTERM", 143)

    with pytest.raises(Interrupted, match=r"^stopped by SIGTERM$") as caught:
        evaluate_lists(subject(), images, lists, head, advance=stop)
    assert caught.value.exit_code == 143
