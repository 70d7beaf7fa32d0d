"""The meta-model while it learns: its network, and what it predicts of every teacher."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from metazoo.models import ClassifierSpec, build_classifier
from metazoo.run.randomness import seed_of


@final
class Student(nn.Module):
    """A classifier whose features are mapped linearly to every teacher's features and logits.

    The two maps only exist while learning; the meta-model is `classifier`. Its own head is not trained.

    Args:
        spec: of the meta-model.
        feature_sizes: of the teachers.
        class_counts: of the teachers.
        seed: of the run; settles the first weights.
    """

    def __init__(
        self, spec: ClassifierSpec, feature_sizes: Sequence[int], class_counts: Sequence[int], seed: int
    ) -> None:
        super().__init__()
        self.feature_sizes, self.class_counts = tuple(feature_sizes), tuple(class_counts)
        random = torch.Generator().manual_seed(seed_of(seed, "student", "weights"))
        self.classifier = build_classifier(spec, random)
        nn.init.zeros_(self.classifier.network.head.weight)
        nn.init.zeros_(self.classifier.network.head.bias)
        size = self.classifier.network.feature_size
        self.to_features = _linear(size, sum(feature_sizes), random)
        self.to_logits = _linear(size, sum(class_counts), random)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Own features [n, d] of `images` in [0, 1], predicted joint features [n, sum of sizes] and all logits."""
        features = self.classifier.features(images)
        return features, self.to_features(features), self.to_logits(features)

    def trained_parameters(self) -> dict[str, Tensor]:
        """Every parameter but those of the classifier's own head, by name; the tensors themselves."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if not name.startswith("classifier.network.head.")
        }


def _linear(inputs: int, outputs: int, random: torch.Generator) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")  # torch's own generator is left alone
    bound = inputs**-0.5
    for parameter in (layer.weight, layer.bias):
        nn.init.uniform_(parameter, -bound, bound, generator=random)
    return layer
