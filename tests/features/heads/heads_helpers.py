import torch
from torch import Tensor

from metazoo.features.batch_norm import store_statistics
from metazoo.models import ClassifierSpec, ImageClassifier, build_classifier

LABELS = torch.tensor([2, 0, 1, 1, 0, 2, 1])


def classifier(seed: int = 0, architecture: str = "conv4") -> ImageClassifier:
    spec = ClassifierSpec(
        architecture=architecture,
        arguments={"width": 4},
        classes=3,
        input_size=16,
        channels=3,
        mean=(0.5, 0.4, 0.3),
        std=(0.25, 0.2, 0.3),
    )
    made = build_classifier(spec, torch.Generator().manual_seed(seed)).eval()
    store_statistics(made, pictures(16, seed=100 + seed))
    return made.requires_grad_(False)


def pictures(count: int, side: int = 16, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def clusters(tasks: int, each: int, ways: int = 3, size: int = 5, spread: float = 0.6, seed: int = 0) -> Tensor:
    """Positive features [tasks, ways * each, size], class after class, around random centres of each task."""
    random = torch.Generator().manual_seed(seed)
    centres = 1 + torch.rand(tasks, ways, 1, size, generator=torch.Generator().manual_seed(9))
    return (centres + spread * torch.rand(tasks, ways, each, size, generator=random)).flatten(1, 2)
