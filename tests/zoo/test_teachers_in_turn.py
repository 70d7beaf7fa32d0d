import shutil

import pytest
import torch
from error_checks import raises

from metazoo.errors import ArtefactError
from metazoo.zoo import Zoo
from metazoo.zoo.teachers import Teachers


def test_they_are_those_of_the_zoo(zoo: Zoo) -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    in_turn = zoo.teachers_in_turn()
    assert len(in_turn) == 2
    for lazy, teacher in zip(in_turn, zoo.teachers(), strict=True):
        assert lazy.contract == teacher.contract
        assert torch.equal(lazy(images), teacher(images))
    assert in_turn[-1] is in_turn[1]
    assert [teacher.contract.name for teacher in in_turn[1:]] == ["second"]
    with pytest.raises(IndexError):
        in_turn[2]


def test_few_stay_loaded_and_of_many_the_first(zoo: Zoo) -> None:
    few = zoo.teachers_in_turn()
    assert all(before is after for before, after in zip([*few], [*few], strict=True))
    many = Teachers(zoo.folder, list(zoo), most=1, most_bytes=10)
    (first, second), (first_again, second_again) = [*many], [*many]
    assert first is first_again
    assert second is not second_again


def test_one_is_checked_when_it_is_asked_for(zoo: Zoo) -> None:
    in_turn = zoo.teachers_in_turn()
    shutil.rmtree(zoo.folder / "models")
    with raises(ArtefactError, subject="'second'", problem="second.safetensors"):
        in_turn[1]
