import dataclasses
import weakref
from collections.abc import Sequence

import pytest
import torch
from error_checks import raises
from evaluate_helpers import classifier, noise_images, pictures, teacher
from torch.nn import functional

from metazoo.data import EpisodeList
from metazoo.errors import UsageError
from metazoo.evaluate import (
    Subject,
    best_teacher,
    evaluate_lists,
    parameter_average,
    random_initialisation,
    raw_pixels,
    zoo_ensemble,
    zoo_ensemble_in_turn,
)
from metazoo.features.batch_norm import BatchNormMode
from metazoo.features.embedders import MirroredFeatures
from metazoo.features.heads import get_head, query_features
from metazoo.models import ImageClassifier, build_classifier


def module_of(subject: Subject | None) -> ImageClassifier:
    assert subject is not None
    assert isinstance(subject.module, ImageClassifier)
    return subject.module


def test_a_parameter_average_is_the_mean_of_weights_statistics_and_pixel_statistics() -> None:
    first, second = classifier(0), classifier(1, classes=7)
    average = module_of(parameter_average([teacher(first), teacher(second)], classifier(2).spec))
    states = [made.network.state_dict() for made in (first, second)]
    for name, tensor in average.network.state_dict().items():
        if not name.startswith("head.") and tensor.is_floating_point():
            torch.testing.assert_close(tensor, (states[0][name] + states[1][name]) / 2)
    assert average.spec.mean == pytest.approx((0.5, 0.405, 0.3))
    assert average.spec.std == pytest.approx((0.25, 0.2, 0.305))
    assert not average.training

    by_hand = build_classifier(average.spec).eval()
    mean = {name: (states[0][name] + states[1][name]) / 2 for name in states[0] if not name.startswith("head.")}
    by_hand.network.load_state_dict(mean, strict=False)
    images = pictures(5)
    torch.testing.assert_close(average.features(images), by_hand.features(images))


def test_class_heads_are_not_averaged() -> None:
    average = module_of(parameter_average([teacher(classifier(0)), teacher(classifier(1))], classifier(2).spec))
    assert not average.network.head.weight.any()
    assert not average.network.head.bias.any()


def test_only_teachers_that_fit_are_averaged() -> None:
    fitting = [teacher(classifier(0)), teacher(classifier(1))]
    foreign = [
        teacher(classifier(2, "thin-resnet")),
        teacher(classifier(3, width=5)),
        teacher(classifier(4, size=32)),
    ]
    spec = classifier(5).spec
    mixed, pure = (module_of(parameter_average(teachers, spec)) for teachers in ([*foreign, *fitting], fitting))
    images = pictures(3)
    assert torch.equal(mixed.features(images), pure.features(images))
    assert parameter_average([*foreign, fitting[0]], spec) is None
    assert parameter_average([], spec) is None


def test_averaging_does_not_change_the_teachers() -> None:
    first, second = classifier(0), classifier(1)
    before = [first.network.state_dict()["blocks.0.0.weight"].clone(), second.network.head.weight.clone()]
    parameter_average([teacher(first), teacher(second)], first.spec)
    assert torch.equal(first.network.state_dict()["blocks.0.0.weight"], before[0])
    assert torch.equal(second.network.head.weight, before[1])


def test_the_best_teacher_has_the_highest_accuracy() -> None:
    made = [classifier(seed) for seed in range(4)]
    teachers = [
        teacher(made[0], "d", 70.0),
        teacher(made[1], "c", 80.0),
        teacher(made[2], "b", 80.0),
        teacher(made[3], "a", None),
    ]
    for order in (teachers, teachers[::-1]):
        assert module_of(best_teacher(order)) is made[2]  # of equals the first by name
    assert module_of(best_teacher([teacher(made[0], "a", None), teacher(made[1], "b", 0.0)])) is made[1]
    assert best_teacher([teacher(made[0]), teacher(made[1])]) is None


def test_the_cosine_of_the_ensemble_is_the_mean_of_its_members_cosines() -> None:
    members = [classifier(0), classifier(1, "thin-resnet"), classifier(2, size=32)]
    subject = zoo_ensemble([teacher(member) for member in members])
    first, second = pictures(6, 32), pictures(6, 32, seed=1)
    cosines = [functional.cosine_similarity(member.features(first), member.features(second)) for member in members]
    together = functional.cosine_similarity(subject.module.features(first), subject.module.features(second))
    torch.testing.assert_close(together, torch.stack(cosines).mean(0))


class Loading(Sequence[ImageClassifier]):
    """Sequence that makes classifiers on access and fails if more than two exist at a time."""

    def __init__(self) -> None:
        self._made: list[weakref.ref[ImageClassifier]] = []

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> ImageClassifier:  # pyright: ignore[reportIncompatibleMethodOverride]
        made = classifier(range(5)[index], ("conv4", "thin-resnet")[index % 2])
        self._made.append(weakref.ref(made))
        assert sum(each() is not None for each in self._made) <= 2
        return made


def test_an_ensemble_in_turn_equals_the_ensemble_and_holds_few_members() -> None:
    whole = zoo_ensemble([teacher(classifier(index, ("conv4", "thin-resnet")[index % 2])) for index in range(5)])
    in_turn = zoo_ensemble_in_turn(Loading(), "cpu")
    images = pictures(6)
    assert torch.equal(in_turn.module.features(images), whole.module.features(images))
    assert (in_turn.name, in_turn.method, in_turn.parameters) == (whole.name, whole.method, whole.parameters)
    assert in_turn.on("cpu") is in_turn
    assert torch.equal(query_features(in_turn.module, images), query_features(whole.module, images))


@pytest.mark.parametrize(("head", "mode"), [("logistic", "query"), ("ridge", "support"), ("fine-tune", "running")])
@pytest.mark.parametrize("mirrored", [False, True])
def test_members_in_turn_refuse_heads_and_modes_that_change_them(
    head: str, mode: BatchNormMode, mirrored: bool
) -> None:
    in_turn = zoo_ensemble_in_turn([classifier(index) for index in range(2)], "cpu")
    module = MirroredFeatures(in_turn.module) if mirrored else in_turn.module
    images = noise_images()
    episodes = EpisodeList.draw(images, 2, 1, 1, 2, 0)
    with raises(UsageError, subject="zoo ensemble", problem=f"batch norm {mode} with head {head}"):
        evaluate_lists(dataclasses.replace(in_turn, module=module), images, [episodes], get_head(head), mode)


def test_an_ensemble_needs_a_teacher() -> None:
    with raises(UsageError, problem="no model", remedy="at least one"):
        zoo_ensemble([])


def test_a_random_initialisation_is_fixed_by_its_seed_alone() -> None:
    spec, images = classifier().spec, pictures(3)
    torch.manual_seed(0)
    first = random_initialisation(spec, 1)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))  # the global generator is left alone
    torch.manual_seed(99)
    again, other = random_initialisation(spec, 1), random_initialisation(spec, 2)
    assert torch.equal(first.module.features(images), again.module.features(images))
    assert not torch.equal(first.module.features(images), other.module.features(images))
    assert not module_of(first).training


def test_raw_pixels_are_the_pixels() -> None:
    subject = raw_pixels(16)
    images = pictures(2)
    assert torch.equal(subject.module.features(images), images.flatten(1))
    assert subject.parameters == 0


def test_parameters_are_counted_without_class_heads() -> None:
    conv4, thin = classifier(0), classifier(1, "thin-resnet", classes=9)

    def blocks(made: ImageClassifier) -> int:
        return sum(parameter.numel() for name, parameter in made.named_parameters() if "head" not in name)

    width, channels = 4, 3
    by_hand = (9 * channels * width + width) + 3 * (9 * width * width + width) + 4 * 2 * width
    assert blocks(conv4) == by_hand
    teachers = [teacher(conv4, accuracy=1.0), teacher(classifier(2)), teacher(thin)]
    assert random_initialisation(conv4.spec, 0).parameters == by_hand
    for subject in (best_teacher(teachers), parameter_average(teachers, conv4.spec)):
        assert subject is not None
        assert subject.parameters == by_hand
    assert zoo_ensemble(teachers).parameters == 2 * by_hand + blocks(thin)
