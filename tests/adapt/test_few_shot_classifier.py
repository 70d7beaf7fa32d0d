from pathlib import Path
from typing import Any

import pytest
import torch
from adapt_helpers import LABELS, NAMES, edit_weights, made, network, of_two_domains, pictures, predicted
from torch import Tensor, nn

from metazoo.adapt import FewShotClassifier, MetaModel, adapt
from metazoo.data import Episode, EpisodeList, ImageSet
from metazoo.errors import DataError, MetazooError, UsageError
from metazoo.evaluate.protocol import score_episode
from metazoo.features.batch_norm import BATCH_NORM_MODES, BatchNormMode
from metazoo.features.embedders import Embedder, JointFeatures, MirroredFeatures, PixelFeatures
from metazoo.features.heads import HEADS, Head, get_head, query_features
from metazoo.models import ImageClassifier

HEAD_NAMES = [head.name for head in HEADS]


def joint() -> JointFeatures:
    return JointFeatures([network(0), network(1, "thin-resnet", size=24, channels=1)])


MODULES = {"single": network, "joint": joint, "domains": of_two_domains}
# Several networks have no head of their own to start from.
HEADS_OF = [(kind, head) for kind in MODULES for head in HEADS if kind == "single" or head.name != "fine-tune-own"]
IDS = [f"{kind}-{head.name}" for kind, head in HEADS_OF]


class Teacher(nn.Module):
    """As a zoo's: its network is called `classifier`."""

    def __init__(self, classifier: ImageClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def features(self, images: Tensor) -> Tensor:
        return self.classifier.features(images)


@pytest.mark.parametrize("mode", BATCH_NORM_MODES)
@pytest.mark.parametrize(("kind", "head"), HEADS_OF, ids=IDS)
def test_what_is_saved_predicts_to_the_bit_as_before(kind: str, mode: str, head: Head, tmp_path: Path) -> None:
    classifier = made(module=MODULES[kind](), head=head.name, batch_norm=mode, source="somewhere")
    before = predicted(classifier)
    classifier.save(tmp_path / "c")
    loaded = FewShotClassifier.load(tmp_path / "c")
    assert torch.equal(predicted(loaded), before)
    assert loaded.class_names == NAMES
    card = loaded.description
    assert (card.head, card.batch_norm, card.joint, card.source) == (head.name, mode, kind == "joint", "somewhere")
    assert len(card.networks) == (1 if kind == "single" else 2)
    loaded.save(tmp_path / "again")
    assert torch.equal(predicted(FewShotClassifier.load(tmp_path / "again")), before)


def one_episode(kind: str) -> tuple[ImageSet, Episode, Tensor, Tensor]:
    """Images of the size that a classifier of that kind reads, as `evaluate` reads them."""
    labels = torch.arange(4).repeat_interleave(6)
    images = ImageSet(pictures(24, 24 if kind == "joint" else 16).mul(255).byte(), labels, ("a", "b", "c", "d"))
    episode = EpisodeList.draw(images, 3, 2, queries=3, episodes=1)[0]
    return images, episode, images.images[episode.support_indices], images.images[episode.query_indices]


@pytest.mark.parametrize("mode", BATCH_NORM_MODES)
@pytest.mark.parametrize(("kind", "head"), HEADS_OF, ids=IDS)
def test_users_get_what_evaluation_measures(kind: str, mode: BatchNormMode, head: Head) -> None:
    images, episode, support, query = one_episode(kind)
    module = MODULES[kind]()
    measured = score_episode(module, images, episode, head, mode)
    classifier = adapt(module, support, episode.support_labels, head=head.name, batch_norm=mode)
    assert classifier.predict(query).labels.tolist() == measured.argmax(1).tolist()


@pytest.mark.parametrize("mode", BATCH_NORM_MODES)
@pytest.mark.parametrize(("kind", "head"), HEADS_OF, ids=IDS)
def test_mirrored_classifiers_are_what_evaluation_measures(
    kind: str, mode: BatchNormMode, head: Head, tmp_path: Path
) -> None:
    images, episode, support, query = one_episode(kind)
    module = MODULES[kind]()
    measured = score_episode(MirroredFeatures(module), images, episode, head, mode)
    adapt(module, support, episode.support_labels, head=head.name, batch_norm=mode, mirrored=True).save(tmp_path / "c")
    loaded = FewShotClassifier.load(tmp_path / "c")
    assert loaded.description.mirrored
    assert loaded.predict(query).labels.tolist() == measured.argmax(1).tolist()
    if mode != "query" and not head.transductive:
        together = loaded.predict(torch.cat([query, query.flip(3)])).probabilities
        torch.testing.assert_close(together[: len(query)], together[len(query) :])


@pytest.mark.parametrize("mode", BATCH_NORM_MODES)
@pytest.mark.parametrize("head", HEAD_NAMES)
def test_whether_a_prediction_depends_on_the_rest_of_the_call_is_said(head: str, mode: str) -> None:
    classifier, images = made(head=head, batch_norm=mode), pictures(6, seed=1)
    together, alone = classifier.predict(images).probabilities[:2], classifier.predict(images[:2]).probabilities
    assert torch.allclose(together.log(), alone.log(), atol=1e-3) != classifier.transductive
    assert classifier.transductive == (mode == "query" or get_head(head).transductive)


@pytest.mark.parametrize("mode", BATCH_NORM_MODES)
@pytest.mark.parametrize("head", HEAD_NAMES)
def test_the_module_is_left_as_it_was_and_not_shared(head: str, mode: str) -> None:
    module = network()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    classifier = made(module=module, head=head, batch_norm=mode)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    expected = predicted(classifier)
    for tensor in module.state_dict().values():
        tensor.zero_()
    assert torch.equal(predicted(classifier), expected)


@pytest.mark.parametrize("head", HEAD_NAMES)
def test_probabilities_are_those_of_the_head(head: str) -> None:
    module, query = network(), pictures(6, seed=1)
    adapted, fitted = get_head(head).fit(module, pictures(7), LABELS, 3)
    with torch.no_grad():
        expected = fitted.probabilities(adapted.features(query))
    prediction = made(module=module, head=head).predict(query)
    torch.testing.assert_close(prediction.probabilities, expected)
    torch.testing.assert_close(prediction.probabilities.sum(1), torch.ones(6))
    assert prediction.labels.tolist() == expected.argmax(1).tolist()
    assert prediction.names == [NAMES[label] for label in prediction.labels.tolist()]


def test_uint8_grey_and_other_sizes_are_taken() -> None:
    classifier = made()
    whole = pictures(6, side=32, seed=1).mul(255).byte()
    by_uint8, by_float = classifier.predict(whole), classifier.predict(whole / 255)
    assert torch.equal(by_uint8.probabilities, by_float.probabilities)
    grey = whole[:, :1]
    repeated = classifier.predict(grey.expand(-1, 3, -1, -1)).probabilities
    torch.testing.assert_close(classifier.predict(grey).probabilities, repeated)
    assert classifier.predict(pictures(2, side=16)[:, :, :9]).probabilities.shape == (2, 3)
    support = pictures(7).mul(255).byte()
    assert torch.equal(predicted(made(support_images=support)), predicted(made(support_images=support / 255)))


def test_arrays_and_lists_are_taken_as_tensors_are() -> None:
    images = pictures(7)
    expected = predicted(made(support_images=images))
    classifier = made(support_images=images.numpy(), support_labels=LABELS.tolist())
    assert torch.equal(predicted(classifier), expected)
    assert torch.equal(predicted(made(support_images=images, support_labels=LABELS.int().numpy())), expected)
    query = pictures(6, seed=1)
    assert torch.equal(classifier.predict(query.numpy()).probabilities, classifier.predict(query).probabilities)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("photos", "images are a tensor or a list of paths, not one path; put it into a list"),
        ([Path("a.png"), pictures(1)], "must be a tensor or an array, not list"),
        ([], r"not \[0\]"),
        (list(pictures(2)), "must be a tensor or an array, not list; torch.stack makes one of many"),
        (pictures(2).permute(0, 2, 3, 1), r"put channels second, by permute\(0, 3, 1, 2\)"),
        (pictures(1)[0], r"put one image into a batch by unsqueeze\(0\)"),
        (None, "must be a tensor or an array, not NoneType"),
    ],
)
def test_images_that_are_none_are_told_what_to_become(images: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        made().predict(images)


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([1, 1, 1, 2, 2, 3, 3], None, "the class 0 has no image; labels are the numbers of classes, from 0 on"),
        ([0, 0, 0, 1, 1, 3, 3], None, "the class 2 has no image"),
        ([0, 0, 0, 1, 1, 1, 1], ("a", "b", "c"), "the class 'c' has no image"),
        ([0, 0, 0, 1, 1, 2, 2], ("a", "b"), "there are 2 class names, but a label 2; labels are from 0 to 1"),
        ([0, 0, 0, 0, 0, 0, 0], None, "labelled from 0 on, not the one class 0"),
        ([-1, 0, 0, 1, 1, 2, 2], None, "labelled from 0 on, not labels from -1 on"),
        ([], None, r"7 images need 7 labels, whole numbers from 0 on, not \[0\]"),
        ([0, 1], None, r"7 images need 7 labels, whole numbers from 0 on, not \[2\] of int64"),
        ([0.0, 0, 0, 1, 1, 2, 2], None, "of float32"),
        (LABELS, ("a", "a", "b"), "every class needs a name of its own"),
    ],
)
def test_labels_that_do_not_fit_are_named(labels: Any, names: tuple[str, ...] | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made(support_labels=labels, class_names=names)


def test_a_classifier_says_what_it_is() -> None:
    assert repr(made()) == f"FewShotClassifier({', '.join(NAMES)}: head logistic on conv4)"


def test_the_side_is_the_largest_input_of_the_networks() -> None:
    assert made().side == 16
    assert made(module=joint()).side == 24


def test_classes_without_names_are_numbered() -> None:
    assert made(class_names=None).class_names == ("0", "1", "2")


def test_teachers_are_taken_for_their_networks(tmp_path: Path) -> None:
    plain = predicted(made())
    wrapped = made(module=Teacher(network()))
    assert torch.equal(predicted(wrapped), plain)
    wrapped.save(tmp_path / "c")
    assert torch.equal(predicted(FewShotClassifier.load(tmp_path / "c")), plain)
    several = JointFeatures([Teacher(network(0)), Teacher(network(1))])
    bare = JointFeatures([network(0), network(1)])
    assert torch.equal(predicted(made(module=several)), predicted(made(module=bare)))


@pytest.mark.parametrize("module", [PixelFeatures(4), JointFeatures([PixelFeatures(4)])])
def test_only_image_classifiers_can_be_saved_and_so_adapted(module: Embedder) -> None:
    with pytest.raises(UsageError, match="made of image classifiers, not of PixelFeatures"):
        made(module=module)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": "svm"}, "unknown head 'svm'; choose one of nearest-mean, .*fine-tune"),
        ({"batch_norm": "none"}, "unknown batch-norm mode 'none'"),
    ],
)
def test_wrong_use_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made(**change)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (pictures(7)[0], r"images must be \[n, 3, height, width\] \(or 1 channel\), not \[3, 16, 16\]"),
        (pictures(7)[:, :2], r"not \[7, 2, 16, 16\]"),
        (pictures(7).permute(0, 2, 3, 1), r"not \[7, 16, 16, 3\]"),
        (pictures(0), r"not \[0, 3, 16, 16\]"),
        (pictures(7).mul(255).int(), "images must be uint8, or float from 0 to 1, not int32"),
        (pictures(7).mul(255), "must lie between 0 and 1, not between .*; scale them"),
        (pictures(7) - 1, "must lie between 0 and 1"),
        (torch.full((7, 3, 16, 16), torch.nan), "must lie between 0 and 1, not between nan and nan"),
    ],
)
def test_tensors_that_are_no_images_are_refused(images: Tensor, message: str) -> None:
    for act in (lambda: made(support_images=images), lambda: made().predict(images)):
        with pytest.raises(DataError, match=message):
            act()


def test_a_broken_model_is_not_adapted() -> None:
    module = network()
    module.network.state_dict()["blocks.0.0.weight"].fill_(torch.nan)
    with pytest.raises(MetazooError, match="features are not finite"):
        made(module=module)


@pytest.mark.parametrize("head", ["logistic", "ridge", "fine-tune", "soft-k-means-balanced"])
def test_a_task_takes_the_specialists_of_the_domains_that_it_looks_like(tmp_path: Path, head: str) -> None:
    module = of_two_domains()
    classifier = made(module=module, head=head)
    with torch.no_grad():
        shares = module.recogniser.shares(module.features(pictures(7)))
    assert classifier.description.domains == pytest.approx(dict(zip(("birds", "ships"), shares.tolist(), strict=True)))
    assert (classifier.description.joint, len(classifier.description.networks)) == (False, 2)
    classifier.save(tmp_path / "c")
    assert torch.equal(predicted(FewShotClassifier.load(tmp_path / "c")), predicted(classifier))
    adapted, fitted = get_head(head).fit(module, pictures(7), LABELS, 3)
    expected = fitted.probabilities(query_features(adapted, pictures(6, seed=1)))
    torch.testing.assert_close(predicted(classifier), expected)


def test_a_specialist_without_a_share_is_left_behind(tmp_path: Path) -> None:
    module = of_two_domains()
    module.recogniser.weight[-1, 1] = 20.0
    classifier = made(module=module, mirrored=True)
    assert classifier.description.domains == {"birds": 0, "ships": 1}
    assert len(classifier.description.networks) == 1
    torch.testing.assert_close(predicted(classifier), predicted(made(module=network(1), mirrored=True)))
    classifier.save(tmp_path / "c")
    assert torch.equal(predicted(FewShotClassifier.load(tmp_path / "c")), predicted(classifier))


def test_a_user_may_say_what_domain_the_images_are_of() -> None:
    module = of_two_domains()
    told = MetaModel(module, method="tgr", preset="default", seed=0).adapt(
        pictures(7), LABELS, NAMES, domain="ships", mirrored=True
    )
    assert told.description.domains == {"ships": 1}
    assert torch.equal(predicted(told), predicted(made(module=network(1), mirrored=True)))
    with pytest.raises(UsageError, match="this model sees all images alike"):
        made(domain="ships")
    with pytest.raises(UsageError, match="this model has none; choose the head fine-tune"):
        made(module=module, head="fine-tune-own")


def test_one_picture_a_class_is_enough(tmp_path: Path) -> None:
    classifier = adapt(network(), pictures(2), torch.tensor([1, 0]), ("a", "b"))
    classifier.save(tmp_path / "c")
    assert FewShotClassifier.load(tmp_path / "c").predict(pictures(2)).names == ["b", "a"]


def test_a_change_of_the_weights_changes_the_prediction(saved: Path) -> None:
    before = predicted(FewShotClassifier.load(saved))
    edit_weights(saved, lambda tensors: tensors["head.weight"][0].neg_())
    assert not torch.equal(predicted(FewShotClassifier.load(saved)), before)
