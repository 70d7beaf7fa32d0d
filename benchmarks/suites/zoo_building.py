"""Training the models of a zoo."""

import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.measure import Case, Settings, Suite, Way, timed
from benchmarks.suites.examples import classifier, image_set, random
from metazoo.data import ImageSet, split_images
from metazoo.zoo import TrainingConfig, build_zoo

WAYS, CLASSES, IMAGES = 5, 20, 600


def published_training(images: ImageSet, models: int, epochs: int, width: int | None) -> list[float]:
    """Train one model after the other with torch's own loader and layout; their validation accuracies in percent."""
    accuracies = []
    for index in range(models):
        draws = random(index)
        chosen = torch.randperm(len(images.class_names), generator=draws)[:WAYS].tolist()
        training, validation = split_images(images.select_classes(chosen), 0.8)
        model = classifier(side=images.side, width=width, seed=index).to(memory_format=torch.contiguous_format).train()  # pyright: ignore[reportCallIssue]
        optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
        data = TensorDataset(training.images, training.labels)
        loader = DataLoader(data, batch_size=128, shuffle=True, generator=draws)
        for _ in range(epochs):
            for batch, labels in loader:
                loss = functional.cross_entropy(model(batch.float() / 255), labels)
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 50.0)
                optimiser.step()
        with torch.no_grad():
            right = model.eval()(validation.images.float() / 255).argmax(1) == validation.labels
        accuracies.append(100 * right.double().mean().item())
    return accuracies


def _case(models: int, epochs: int, images: int, side: int, width: int | None, *, memory: bool = False) -> Case:
    def prepare() -> dict[str, Way]:
        shown = image_set(CLASSES, images, side)
        config = TrainingConfig(epochs=epochs)

        def build() -> object:
            with tempfile.TemporaryDirectory() as folder:
                return build_zoo(
                    Path(folder) / "zoo", shown, "conv4", models, WAYS, config=config, width=width, workers=1
                )

        return {
            "one after the other, plain torch": timed(lambda: published_training(shown, models, epochs, width)),
            "metazoo zoo build, one process": timed(build),
        }

    name = f"{models} Conv4 of {WAYS} classes, {side} px, {epochs} of 60 epochs"
    return Case(name, prepare, models * epochs, "epochs", "models", models, memory=memory)


def cases(settings: Settings) -> list[Case]:
    if settings.quick:
        return [_case(models, 1, 10, 16, 4) for models in (1, 2)]
    return [_case(models, 1, IMAGES, 32, None, memory=models == 2) for models in (1, 2)]


SUITE = Suite("zoo-building", "Training models of 480 images a class in batches of 128, by Adam, as published.", cases)
