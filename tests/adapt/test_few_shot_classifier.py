from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapt_helpers import LABELS, NAMES, edit_weights, made, network, of_two_domains, pictures, predicted
from error_checks import raises
from PIL import Image
from torch import Tensor, nn

from metazoo.adapt import FewShotClassifier, MetaModel, adapt
from metazoo.data import Episode, EpisodeList, ImageSet
from metazoo.errors import MetazooError, UsageError
from metazoo.evaluate.protocol import score_episode
from metazoo.features.batch_norm import BATCH_NORM_MODES, BatchNormMode
from metazoo.features.embedders import Embedder, JointFeatures, MirroredFeatures, PixelFeatures
from metazoo.features.heads import HEADS, FeatureHead, Head, get_head, query_features
from metazoo.models import ImageClassifier

HEAD_NAMES = [head.name for head in HEADS]


def joint() -> JointFeatures:
    return JointFeatures([network(0), network(1, "thin-resnet", size=24, channels=1)])


MODULES = {"single": network, "joint": joint, "domains": of_two_domains}
# Several networks have no head of their own to start from.
HEADS_OF = [(kind, head) for kind in MODULES for head in HEADS if kind == "single" or head.name != "fine-tune-own"]
IDS = [f"{kind}-{head.name}" for kind, head in HEADS_OF]


class Teacher(nn.Module):
    """Teacher like those of a zoo, with its network in `classifier`."""

    def __init__(self, classifier: ImageClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def features(self, images: Tensor) -> Tensor:
        return self.classifier.features(images)


@pytest.mark.parametrize("mode", BATCH_NORM_MODES)
@pytest.mark.parametrize(("kind", "head"), HEADS_OF, ids=IDS)
def test_a_loaded_classifier_predicts_bitwise_the_same(kind: str, mode: str, head: Head, tmp_path: Path) -> None:
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


def one_episode() -> tuple[ImageSet, Episode, Tensor, Tensor]:
    """Images smaller than the inputs of the networks, which are of two sizes if joint."""
    labels = torch.arange(4).repeat_interleave(6)
    images = ImageSet(pictures(24, 12).mul(255).byte(), labels, ("a", "b", "c", "d"))
    episode = EpisodeList.draw(images, 3, 2, queries=3, episodes=1)[0]
    return images, episode, images.images[episode.support_indices], images.images[episode.query_indices]


@pytest.mark.parametrize("mode", BATCH_NORM_MODES)
@pytest.mark.parametrize(("kind", "head"), HEADS_OF, ids=IDS)
def test_classifiers_predict_as_in_evaluation(kind: str, mode: BatchNormMode, head: Head) -> None:
    images, episode, support, query = one_episode()
    module = MODULES[kind]()
    measured = score_episode(module, images, episode, head, mode)
    classifier = adapt(module, support, episode.support_labels, head=head.name, batch_norm=mode)
    assert classifier.predict(query).labels.tolist() == measured.argmax(1).tolist()


@pytest.mark.parametrize("size", [(12, 12), (40, 31)])
def test_networks_of_other_input_sizes_get_the_same_images_as_in_evaluation(size: tuple[int, int]) -> None:
    module, support, query = joint(), *(torch.rand(7, 3, *size), torch.rand(5, 3, *size))
    classifier = adapt(module, support, LABELS, NAMES, head="ridge", image_names=list(map(str, range(7))))
    # The last bits of a fit depend on the order of the images, and those of features on the size of a batch.
    order = [int(image.name) for image in classifier.description.support]
    features = torch.cat([query_features(module, image) for image in support[order].split(1)])
    head = get_head("ridge")
    assert isinstance(head, FeatureHead)
    expected = head.fit_features(features, LABELS[order], 3).probabilities(query_features(module, query))
    found = classifier.predict(query).probabilities ** classifier.description.temperature
    torch.testing.assert_close(found / found.sum(1, keepdim=True), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", BATCH_NORM_MODES)
@pytest.mark.parametrize(("kind", "head"), HEADS_OF, ids=IDS)
def test_mirrored_classifiers_predict_as_in_evaluation(
    kind: str, mode: BatchNormMode, head: Head, tmp_path: Path
) -> None:
    images, episode, support, query = one_episode()
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
def test_transductive_classifiers_are_marked(head: str, mode: str) -> None:
    classifier, images = made(head=head, batch_norm=mode), pictures(6, seed=1)
    together, alone = classifier.predict(images).probabilities[:2], classifier.predict(images[:2]).probabilities
    assert torch.allclose(together.log(), alone.log(), atol=1e-3) != classifier.transductive
    assert classifier.transductive == (mode == "query" or get_head(head).transductive)


@pytest.mark.parametrize("mode", BATCH_NORM_MODES)
@pytest.mark.parametrize("head", HEAD_NAMES)
def test_the_given_module_is_not_changed_or_shared(head: str, mode: str) -> None:
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
        classifier = made(module=module, head=head)
        expected = (fitted.logits(adapted.features(query)) / classifier.description.temperature).softmax(1)
    prediction = classifier.predict(query)
    torch.testing.assert_close(prediction.probabilities, expected)
    torch.testing.assert_close(prediction.probabilities.sum(1), torch.ones(6))
    assert prediction.labels.tolist() == expected.argmax(1).tolist()
    assert prediction.names == [NAMES[label] for label in prediction.labels.tolist()]


def test_uint8_grey_and_other_sizes_are_accepted() -> None:
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


def test_arrays_and_lists_equal_tensors() -> None:
    images = pictures(7)
    expected = predicted(made(support_images=images))
    classifier = made(support_images=images.numpy(), support_labels=LABELS.tolist())
    assert torch.equal(predicted(classifier), expected)
    assert torch.equal(predicted(made(support_images=images, support_labels=LABELS.int().numpy())), expected)
    query = pictures(6, seed=1)
    assert torch.equal(classifier.predict(query.numpy()).probabilities, classifier.predict(query).probabilities)


def test_pictures_in_any_form_are_the_same() -> None:
    """The pixels have 8 bits, so that every form holds the same values."""
    pixels = pictures(6, side=20, seed=1).mul(255).byte()
    arrays = pixels.permute(0, 2, 3, 1).contiguous().numpy()
    opened = [Image.fromarray(array) for array in arrays]
    classifier = made()
    expected = classifier.predict(pixels).probabilities
    for images in (
        arrays,
        arrays.astype("float32") / 255,
        opened,
        list(pixels),
        list(arrays),
        [*opened[:3], *arrays[3:]],
    ):
        torch.testing.assert_close(classifier.predict(images).probabilities, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(classifier.predict(opened[0]).probabilities, expected[:1], rtol=0, atol=1e-6)
    grey = [Image.fromarray(arrays[0]).convert("L"), opened[1]]
    assert classifier.predict(grey).probabilities.shape == (2, 3)
    by_pictures = made(support_images=[Image.fromarray(array) for array in arrays] + [opened[0]])
    by_pixels = made(support_images=torch.cat([pixels, pixels[:1]]))
    assert torch.equal(predicted(by_pictures), predicted(by_pixels))


def test_labels_may_be_class_names() -> None:
    names = [NAMES[label] for label in LABELS.tolist()]
    expected = predicted(made())
    for labels in (names, tuple(names), np.array(names)):
        for class_names in (None, NAMES):
            classifier = made(support_labels=labels, class_names=class_names)
            assert classifier.class_names == NAMES
            assert torch.equal(predicted(classifier), expected)
    other = made(support_labels=names, class_names=("cat", "bee", "ant"))
    assert other.class_names == ("cat", "bee", "ant")
    torch.testing.assert_close(predicted(other).flip(1), expected)


@pytest.mark.parametrize(
    ("images", "subject", "problem", "remedy"),
    [
        ("photos", "images", "one path", "put it into a list"),
        ([], "images", "none given", "at least one"),
        (np.zeros((0, 3, 16, 16), np.uint8), "images", "[0, 3, 16, 16]", "at least one"),
        ([pictures(1)], "images[0]", "[1, 3, 16, 16]", "one image"),
        ([Path(__file__).with_name("none.png"), 3], "none.png", "", ""),
        ([pictures(1)[0], 3], "images[1]", "[]", "one image"),
        ([pictures(1)[0], pictures(1)[0] * 255], "images[1]", "not in [0, 1]", "divide by 255"),
        (pictures(1)[0], "images", "[3, 16, 16]", "images[None]"),
        (None, "images", "NoneType", "NumPy array"),
        (["a.png", None], "", "", ""),
        (pictures(7)[:, :2], "images", "[7, 2, 16, 16]", "channels"),
        (pictures(0), "images", "[0, 3, 16, 16]", "at least one"),
        (pictures(7).mul(255).int(), "images", "int32", "uint8"),
        (pictures(7).mul(255), "images", "not in [0, 1]", "divide by 255"),
        (pictures(7) - 1, "images", "not in [0, 1]", "undo the normalisation"),
        (torch.full((7, 3, 16, 16), torch.nan), "images", "NaN", "replace"),
    ],
)
def test_images_that_cannot_be_used_are_named(images: Any, subject: str, problem: str, remedy: str) -> None:
    for act in (lambda: made(support_images=images), lambda: made().predict(images)):
        with raises(MetazooError, subject=subject, problem=problem, remedy=remedy):
            act()


@pytest.mark.parametrize(
    ("labels", "names", "problem", "remedy"),
    [
        ([1, 1, 1, 2, 2, 3, 3], None, "class 0 has no image", "from 0 without gaps"),
        ([0, 0, 0, 1, 1, 3, 3], None, "class 2 has no image", "without gaps"),
        ([0, 0, 0, 1, 1, 1, 1], ("a", "b", "c"), "class 'c' has no image", ""),
        ([0, 0, 0, 1, 1, 2, 2], ("a", "b"), "2 is not a class", "from 0 to 1"),
        ([0, 0, 0, 0, 0, 0, 0], None, "of one class", "at least two classes"),
        (["a"] * 7, None, "of one class", "at least two classes"),
        ([-1, 0, 0, 1, 1, 2, 2], None, "-1 is not a class", "from 0 to 2"),
        ([], None, "[0] for 7 images", "one label per image"),
        ([0, 1], None, "[2] for 7 images", "one label per image"),
        (["a", "b"], None, "[2] for 7 images", "one label per image"),
        (["a", "b", "b", "b", "a", "b", "c"], ("a", "b"), "'c' is not a class name", "a, b"),
        ([0.0, 0, 0, 1, 1, 2, 2], None, "float32", "class names"),
        (["a", 0, 0, 0, 0, 0, 0], None, "list", "class names"),
        (LABELS, ("a", "a", "b"), "'a'", "different name"),
    ],
)
def test_labels_that_do_not_fit_are_named(
    labels: Any, names: tuple[str, ...] | None, problem: str, remedy: str
) -> None:
    with raises(MetazooError, problem=problem, remedy=remedy):
        made(support_labels=labels, class_names=names)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_an_absent_gpu_is_named() -> None:
    with raises(UsageError, subject="cuda"):
        made().to("cuda")


def test_repr_shows_classes_head_and_networks() -> None:
    assert repr(made()) == f"FewShotClassifier({', '.join(NAMES)}: head logistic on conv4)"


def test_the_side_is_the_largest_input_of_the_networks() -> None:
    assert made().side == 16
    assert made(module=joint()).side == 24


def test_classes_without_names_are_numbered() -> None:
    assert made(class_names=None).class_names == ("0", "1", "2")


def test_teachers_stand_for_their_networks(tmp_path: Path) -> None:
    plain = predicted(made())
    wrapped = made(module=Teacher(network()))
    assert torch.equal(predicted(wrapped), plain)
    wrapped.save(tmp_path / "c")
    assert torch.equal(predicted(FewShotClassifier.load(tmp_path / "c")), plain)
    several = JointFeatures([Teacher(network(0)), Teacher(network(1))])
    bare = JointFeatures([network(0), network(1)])
    assert torch.equal(predicted(made(module=several)), predicted(made(module=bare)))


@pytest.mark.parametrize("module", [PixelFeatures(4), JointFeatures([PixelFeatures(4)])])
def test_only_image_classifiers_can_be_adapted(module: Embedder) -> None:
    with raises(UsageError, problem="PixelFeatures", remedy="image classifier"):
        made(module=module)


@pytest.mark.parametrize(("change", "value"), [({"head": "svm"}, "'svm'"), ({"batch_norm": "none"}, "'none'")])
def test_wrong_use_is_refused(change: dict[str, Any], value: str) -> None:
    with raises(UsageError) as caught:
        made(**change)
    assert value in str(caught.value)


def test_a_broken_model_is_not_adapted() -> None:
    module = network()
    module.network.state_dict()["blocks.0.0.weight"].fill_(torch.nan)
    with raises(MetazooError, subject="model", problem="not finite"):
        made(module=module)


@pytest.mark.parametrize("head", ["logistic", "ridge", "fine-tune", "soft-k-means-balanced"])
def test_a_task_uses_the_networks_of_the_domains_that_it_resembles(tmp_path: Path, head: str) -> None:
    module = of_two_domains()
    classifier = made(module=module, head=head)
    with torch.no_grad():
        shares = module.recogniser.shares(module.features(pictures(7)))
    assert classifier.description.domains == pytest.approx(dict(zip(("birds", "ships"), shares.tolist(), strict=True)))
    assert (classifier.description.joint, len(classifier.description.networks)) == (False, 2)
    classifier.save(tmp_path / "c")
    assert torch.equal(predicted(FewShotClassifier.load(tmp_path / "c")), predicted(classifier))
    adapted, fitted = get_head(head).fit(module, pictures(7), LABELS, 3)
    logits = fitted.logits(query_features(adapted, pictures(6, seed=1)))
    expected = (logits / classifier.description.temperature).softmax(1)
    torch.testing.assert_close(predicted(classifier), expected)


def test_a_network_without_a_share_is_omitted(tmp_path: Path) -> None:
    module = of_two_domains()
    module.recogniser.weight[-1, 1] = 20.0
    classifier = made(module=module, mirrored=True)
    assert classifier.description.domains == {"birds": 0, "ships": 1}
    assert len(classifier.description.networks) == 1
    torch.testing.assert_close(predicted(classifier), predicted(made(module=network(1), mirrored=True)))
    classifier.save(tmp_path / "c")
    assert torch.equal(predicted(FewShotClassifier.load(tmp_path / "c")), predicted(classifier))


def test_the_domain_of_the_images_may_be_known() -> None:
    module = of_two_domains()
    known = MetaModel(module, method="tgr", preset="default", seed=0).adapt(
        pictures(7), LABELS, NAMES, domain="ships", mirrored=True
    )
    assert known.description.domains == {"ships": 1}
    assert torch.equal(predicted(known), predicted(made(module=network(1), mirrored=True)))
    with raises(UsageError, subject="'ships'", problem="one domain", remedy="omit --domain"):
        made(domain="ships")
    with raises(UsageError, subject="fine-tune-own", remedy="fine-tune"):
        made(module=module, head="fine-tune-own")


def test_one_picture_per_class_is_enough(tmp_path: Path) -> None:
    classifier = adapt(network(), pictures(2), torch.tensor([1, 0]), ("a", "b"))
    classifier.save(tmp_path / "c")
    assert FewShotClassifier.load(tmp_path / "c").predict(pictures(2)).names == ["b", "a"]


def test_a_change_of_the_weights_changes_the_prediction(saved: Path) -> None:
    before = predicted(FewShotClassifier.load(saved))
    edit_weights(saved, lambda tensors: tensors["head.weight"][0].neg_())
    assert not torch.equal(predicted(FewShotClassifier.load(saved)), before)


def test_answers_hold_no_graph() -> None:
    module = network().requires_grad_(True)
    classifier = made(module=module)
    images = pictures(3)
    assert not classifier.predict(images).probabilities.requires_grad
    assert not classifier.embed(images).requires_grad
