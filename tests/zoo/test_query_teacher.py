import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from error_checks import raises
from torch import Tensor

from metazoo.errors import Interrupted, QueryBudgetError, UsageError, ZooError
from metazoo.zoo import QueryTeacher, Teacher, WhiteBoxTeacher, Zoo


@pytest.fixture
def own(zoo: Zoo) -> WhiteBoxTeacher:
    return zoo.teacher("second")


class Service:
    """What a white-box teacher says, and what it was asked."""

    def __init__(self, teacher: WhiteBoxTeacher, say: Callable[[Tensor], Any] = lambda logits: logits) -> None:
        self.teacher, self.say, self.sizes = teacher, say, list[int]()

    def __call__(self, images: Tensor) -> Any:
        assert images.shape[1:] == (3, 16, 16)
        assert (images.dtype, images.device.type, images.requires_grad) == (torch.float32, "cpu", False)
        self.sizes.append(len(images))
        return self.say(self.teacher(images).detach())


def asking(service: Callable[[Tensor], Any], **options: Any) -> QueryTeacher:
    return QueryTeacher("remote", service, **{"classes": 3, "input_size": 16, "batch_size": 4, **options})


def images(count: int = 10, channels: int = 3, height: int = 16, width: int = 16) -> Tensor:
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("channels", "height", "width"), [(3, 16, 16), (1, 16, 16), (3, 9, 9), (1, 40, 40)])
def test_it_says_what_the_model_itself_says(own: WhiteBoxTeacher, channels: int, height: int, width: int) -> None:
    teachers: list[Teacher] = [own, asking(Service(own))]
    shown = images(10, channels, height, width)
    torch.testing.assert_close(teachers[1].logits(shown), teachers[0].logits(shown))
    for name in ("classes", "input_size", "channels"):
        assert getattr(teachers[0], name) == getattr(teachers[1], name)
    assert [teacher.is_white_box for teacher in teachers] == [True, False]
    assert [teacher.name for teacher in teachers] == ["second", "remote"]


def test_a_grey_service_is_sent_grey_images(zoo: Zoo) -> None:
    sent: list[Tensor] = []

    def answer(batch: Tensor) -> Tensor:
        sent.append(batch)
        return torch.zeros(len(batch), 3)

    asking(answer, channels=1).logits(images(2))
    red, green, blue = images(2).unbind(1)
    torch.testing.assert_close(sent[0][:, 0], 0.299 * red + 0.587 * green + 0.114 * blue)


@pytest.mark.parametrize(
    "say",
    [
        lambda logits: logits.softmax(1),
        lambda logits: logits.softmax(1).half(),
        lambda logits: logits.softmax(1).double().numpy(),
        lambda logits: logits.softmax(1).tolist(),
    ],
)
def test_logits_of_probabilities_give_them_back(own: WhiteBoxTeacher, say: Callable[[Tensor], Any]) -> None:
    found = asking(Service(own, say), outputs="probabilities").logits(images())
    assert (found.dtype, found.requires_grad) == (torch.float32, False)
    torch.testing.assert_close(found.softmax(1), own.logits(images()).softmax(1), rtol=2e-3, atol=1e-3)


def test_a_certain_answer_has_finite_logits() -> None:
    certain = asking(lambda batch: np.eye(3)[[1] * len(batch)], outputs="probabilities").logits(images(2))
    assert bool(certain.isfinite().all())
    assert torch.allclose(certain.softmax(1), torch.eye(3)[[1, 1]])


def test_queries_are_counted_and_sent_in_batches(own: WhiteBoxTeacher) -> None:
    service = Service(own)
    teacher = asking(service)
    assert teacher.logits(images()).shape == (10, 3)
    assert teacher.logits(images(0)).shape == (0, 3)
    assert teacher.logits(images(3)).shape == (3, 3)
    assert service.sizes == [4, 4, 2, 3]
    assert teacher.queries == 13


def test_nothing_is_sent_beyond_the_budget(own: WhiteBoxTeacher) -> None:
    service = Service(own)
    teacher = asking(service, budget=12)
    teacher.logits(images())
    with raises(
        QueryBudgetError, subject="'remote'", problem="3 images exceed the 2 queries left of its budget of 12"
    ) as info:
        teacher.logits(images(3))
    assert (info.value.teacher, info.value.budget, info.value.queries, info.value.asked) == ("remote", 12, 10, 3)
    assert sum(service.sizes) == teacher.queries == 10
    assert teacher.logits(images(2)).shape == (2, 3)
    assert isinstance(info.value, ZooError)
    travelled = pickle.loads(pickle.dumps(info.value))  # noqa: S301 - as between this program's own processes
    assert (str(travelled), travelled.asked) == (str(info.value), 3)


def test_a_call_that_fails_has_been_sent(own: WhiteBoxTeacher) -> None:
    def fail(_: Tensor) -> Any:
        raise ConnectionError("no route\nto host")

    teacher = asking(fail, budget=5)
    with raises(ZooError, subject="'remote'", problem=r"ConnectionError: no route\nto host"):
        teacher.logits(images(5))
    assert teacher.queries == 4

    def stop(_: Tensor) -> Any:
        raise Interrupted("enough")

    with pytest.raises(Interrupted, match="enough"):
        asking(stop).logits(images(1))


@pytest.mark.parametrize(
    ("say", "outputs", "problem"),
    [
        (lambda logits: logits[:, :2], "logits", "[4, 2], not [4, 3]"),
        (lambda logits: logits[1:], "logits", "[3, 3], not [4, 3]"),
        (lambda logits: logits.argmax(1), "logits", "[4], not"),
        (lambda logits: logits.log() - torch.inf, "logits", "not finite"),
        (lambda logits: np.where(np.eye(4)[:, :3] > 0, np.nan, 0.0), "logits", "not finite"),
        (lambda logits: logits.softmax(1) * 0.98, "probabilities", "not probabilities"),
        (lambda logits: torch.tensor([[1.2, -0.2, 0.0]] * 4), "probabilities", "not probabilities"),
        (lambda logits: logits + 3, "probabilities", "not probabilities"),
        (lambda logits: {"label": 1}, "logits", "TypeError"),
    ],
)
def test_an_answer_that_cannot_be_is_named(
    own: WhiteBoxTeacher, say: Callable[[Tensor], Any], outputs: str, problem: str
) -> None:
    with raises(ZooError, subject="'remote'", problem=problem):
        asking(Service(own, say), outputs=outputs).logits(images(4))


def test_features_and_gradients_need_white_box_access(own: WhiteBoxTeacher) -> None:
    service = Service(own)
    teacher, shown = asking(service), images(2).requires_grad_()
    for ask, what in ((teacher.features, "features"), (teacher.logits, "the gradient of images")):
        with raises(UsageError, subject="'remote'", problem=what):
            ask(shown)
    assert service.sizes == []
    with torch.no_grad():
        assert teacher.logits(shown).shape == (2, 3)
    assert bool((torch.autograd.grad(own.logits(shown).sum(), shown)[0] != 0).any())


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"classes": 0}, "classes"),
        ({"input_size": 0}, "input_size"),
        ({"channels": 2}, "channels"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"budget": -1}, "budget -1"),
        ({"outputs": "labels"}, "outputs 'labels'"),
    ],
)
def test_an_impossible_description_is_refused(wrong: dict[str, Any], problem: str) -> None:
    with raises(UsageError, subject="'remote'", problem=problem):
        asking(lambda batch: batch, **wrong)
