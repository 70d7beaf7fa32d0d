import pytest
import torch
from learn_helpers import CLASS_COUNTS, FEATURE_SIZES, SIDE, SPEC, student
from torch.nn import functional

from metazoo.learn.group_learning import Student


def pictures(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def test_features_are_mapped_linearly_to_every_teacher() -> None:
    learner = student().eval()
    features, joint, logits = learner(pictures())
    assert torch.equal(features, learner.classifier.features(pictures()))
    assert (joint.shape, logits.shape) == ((3, sum(FEATURE_SIZES)), (3, sum(CLASS_COUNTS)))
    for outputs, layer in ((joint, learner.to_features), (logits, learner.to_logits)):
        assert torch.equal(outputs, functional.linear(features, layer.weight, layer.bias))


def test_the_seed_settles_every_weight() -> None:
    before = torch.get_rng_state()
    first, again, other = (student(seed).trained_parameters() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], value) for name, value in again.items())
    differing = {name for name, value in other.items() if not torch.equal(first[name], value)}
    drawn = {"classifier.network.blocks.0.0.weight", "to_features.weight", "to_features.bias", "to_logits.weight"}
    assert drawn <= differing


def test_all_but_the_head_is_trained() -> None:
    learner = student()
    trained, every = learner.trained_parameters(), dict(learner.named_parameters())
    assert every.keys() - trained.keys() == {"classifier.network.head.weight", "classifier.network.head.bias"}
    assert all(value is every[name] for name, value in trained.items())
    assert not learner.classifier.network.head.weight.any()
    assert not learner.classifier.network.head.bias.any()


def test_maps_to_many_teachers_start_at_the_same_scale() -> None:
    many = Student(SPEC, [500], [500], 0)
    bound = many.classifier.network.feature_size**-0.5
    for layer in (many.to_features, many.to_logits):
        assert float(layer.weight.detach().abs().max()) == pytest.approx(bound, rel=0.01)
        assert abs(float(layer.weight.detach().mean())) < 0.05 * bound
