import pytest
import torch
from learn_helpers import CLASS_COUNTS, FEATURE_SIZES, SIDE, SPEC, student, targets
from torch.nn import functional

from metazoo.learn.group_learning import Student
from metazoo.learn.losses import distillation_loss, joint_feature_loss, relational_loss, zoo_cosines


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


def test_a_part_starts_at_the_loss_of_the_whole_on_its_teachers() -> None:
    whole, own, images = student(3).eval(), (0, 2), pictures(8)
    part, before = whole.part(own).eval(), {name: value.clone() for name, value in whole.state_dict().items()}
    features, logits = targets(images)
    own_features = torch.cat([features.split(FEATURE_SIZES, 1)[teacher] for teacher in own], 1)
    own_logits = torch.cat([logits.split(CLASS_COUNTS, 1)[teacher] for teacher in own], 1)

    def losses(
        learner: Student, of_zoo: tuple[torch.Tensor, torch.Tensor], weights: torch.Tensor | None
    ) -> list[float]:
        sizes, counts = learner.feature_sizes, learner.class_counts
        found, joint, predicted = learner(images)
        terms = (
            joint_feature_loss(joint, of_zoo[0], sizes, weights),
            relational_loss(found, zoo_cosines(of_zoo[0], sizes, weights)),
            distillation_loss(predicted, of_zoo[1], counts, 1.0, weights),
        )
        return [float(term.detach()) for term in terms]

    expected = losses(whole, (features, logits), torch.tensor([1.0, 0.0, 1.0]))
    assert losses(part, (own_features, own_logits), None) == pytest.approx(expected, rel=1e-5)
    with torch.no_grad():
        for parameter in part.trained_parameters().values():
            parameter.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in whole.state_dict().items())
