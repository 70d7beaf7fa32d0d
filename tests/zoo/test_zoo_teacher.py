import copy

import torch
from torch import nn
from zoo_helpers import classifier

from metazoo.zoo import WhiteBoxTeacher, Zoo


def test_it_stays_in_evaluation_mode(zoo: Zoo) -> None:
    teacher = zoo.teacher("first")
    images = torch.rand(6, 3, 16, 16)
    before = teacher(images)
    state = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    parent = nn.Sequential(teacher)
    for act in (teacher.train, parent.train, lambda: teacher.train(True), lambda: parent.train(False)):
        act()
        assert not any(module.training for module in teacher.modules())
        assert torch.equal(teacher(images), before)
    assert teacher.train() is teacher
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_it_is_frozen_and_still_lets_gradients_through_to_images(zoo: Zoo) -> None:
    for teacher in zoo.teachers():
        assert not any(parameter.requires_grad for parameter in teacher.parameters())
        images = torch.rand(2, 3, 16, 16, requires_grad=True)
        (gradient,) = torch.autograd.grad(teacher(images).square().sum(), images)
        assert bool((gradient != 0).any())


def test_what_it_takes_over_is_frozen(zoo: Zoo) -> None:
    given = classifier().train()
    teacher = WhiteBoxTeacher(zoo.contract("second"), given)
    assert teacher.classifier is given
    assert not given.training
    assert not given.network.head.weight.requires_grad


def test_features_and_logits_of_any_image(zoo: Zoo) -> None:
    teacher = zoo.teacher("second")
    for shape in ((5, 3, 16, 16), (5, 1, 16, 16), (5, 3, 9, 30)):
        images = torch.rand(shape)
        features = teacher.features(images)
        assert features.shape == (5, 16)
        assert torch.equal(teacher.classifier.network.head(features), teacher(images))
        assert teacher(images).shape == (5, 3)


def test_its_weights_are_channels_last(zoo: Zoo) -> None:
    weight = zoo.teacher("first").classifier.network.state_dict()["blocks.1.0.weight"]
    assert weight.shape == (4, 4, 3, 3)
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_it_is_what_evaluation_asks_for_and_can_be_copied(zoo: Zoo) -> None:
    teacher = zoo.teacher("first")
    copied = copy.deepcopy(teacher)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(copied(images), teacher.classifier(images))
    assert copied.contract == teacher.contract
    assert teacher.contract.accuracy == 75.5


def test_loading_leaves_the_global_generator_alone(zoo: Zoo) -> None:
    before = torch.get_rng_state()
    zoo.teachers()
    assert torch.equal(torch.get_rng_state(), before)
