"""Images a second by model inversion."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.measure import Case, Settings, Suite, Way, extrapolated
from benchmarks.suites.examples import random, teacher
from metazoo.data.augment import crop_and_flip_alike
from metazoo.models import Generator
from metazoo.recover import GeneratorConfig, RecoveredImages, RecoveryConfig
from metazoo.zoo import WhiteBoxTeacher

CLASSES = 5
AS_FAITHFUL = 50
"""Iterations in pixels whose images teach a student no less than the published ones; see `benchmarks.fidelity`."""


def published_inversion(
    subject: WhiteBoxTeacher,
    labels: Tensor,
    config: GeneratorConfig,
    draws: torch.Generator,
    check: Callable[[], None] = lambda: None,
) -> Tensor:
    """Invert as the official code of TGR does: float images [n, channels, side, side] of the step of lowest loss.

    A generator in torch's own layout, torch's Adam, statistics by hooks and `var`, a teacher whose weights ask for
    gradients that nobody uses, and a look at the loss on the host in every step.
    """
    model = copy.deepcopy(subject.classifier).to(memory_format=torch.contiguous_format).requires_grad_(True)  # pyright: ignore[reportCallIssue]
    spec = model.spec
    distances: list[Tensor] = []

    def hook(layer: nn.BatchNorm2d, inputs: Sequence[Any], _: Tensor) -> None:
        values = inputs[0]
        mean = values.mean((0, 2, 3))
        variance = values.permute(1, 0, 2, 3).contiguous().view(values.shape[1], -1).var(1, unbiased=False)
        distances.append((layer.running_mean - mean).norm() + (layer.running_var - variance).norm())  # pyright: ignore[reportOptionalOperand]

    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_hook(hook)
    network = Generator(spec.input_size, spec.channels, latent=config.latent, width=config.width)
    network.initialise(draws)
    latents = torch.randn(len(labels), config.latent, generator=draws).to(labels.device).requires_grad_(True)
    network.to(labels.device)
    optimiser = torch.optim.Adam([*network.parameters(), latents], lr=config.learning_rate, betas=(0.5, 0.999))
    best_loss, best = float("inf"), torch.empty(0)
    for _ in range(config.iterations):
        check()
        distances.clear()
        images = network(latents)
        logits = model(crop_and_flip_alike(images, round(spec.input_size * config.shift), draws))
        loss = config.cross_entropy * functional.cross_entropy(logits, labels)
        loss = loss + config.batch_norm * torch.stack(distances).sum()
        if loss.item() < best_loss:
            best_loss, best = loss.item(), images.detach()
        optimiser.zero_grad()
        model.zero_grad()
        loss.backward()
        optimiser.step()
    return best


def recovered(
    subject: WhiteBoxTeacher,
    labels: Tensor,
    config: RecoveryConfig | GeneratorConfig,
    check: Callable[[], None] = lambda: None,
) -> RecoveredImages:
    """Images by metazoo."""
    return next(config.inversions(subject, [labels], random())).run(check).best()


def _case(architecture: str, side: int, images: int, steps: tuple[int, int], quick: bool) -> Case:
    """`steps` of the generator and of pixels are done; all others are taken to last as long."""

    def prepare() -> dict[str, Way]:
        subject = teacher(architecture, side=side, width=4 if quick else None)
        labels = torch.arange(CLASSES).repeat(images // CLASSES)
        published = GeneratorConfig(latent=8, width=4) if quick else GeneratorConfig()
        default = RecoveryConfig()
        fewer = published.model_copy(update={"iterations": steps[0]})
        # Fewer steps of pixels fall faster in learning rate, which costs nothing.
        fewer_pixels = default.model_copy(update={"iterations": steps[1]})
        return {
            "published, plain torch": extrapolated(
                lambda check: published_inversion(subject, labels, fewer, random(), check), published.iterations
            ),
            "published, by metazoo (preset published)": extrapolated(
                lambda check: recovered(subject, labels, fewer, check),
                published.iterations,
            ),
            **{
                f"in pixels, {iterations} iterations{note}": extrapolated(
                    lambda check: recovered(subject, labels, fewer_pixels, check), iterations
                )
                for iterations, note in ((default.iterations, " (setting default)"), (AS_FAITHFUL, ""))
            },
        }

    axis = "side" if architecture == "conv4" else None
    name = f"{architecture}, {side} px, {images} images together"
    return Case(name, prepare, images, "images", axis, side, memory=side == 32)


def cases(settings: Settings) -> list[Case]:
    if settings.quick:
        return [_case("conv4", 16, 10, (2, 2), True), _case("resnet18", 16, 5, (2, 2), True)]
    return [
        *(_case("conv4", side, 150, (2, 20), False) for side in (16, 32, 48)),
        _case("resnet18", 32, 10, (2, 3), False),
    ]


SUITE = Suite(
    "recovery",
    "Images a second: inversion through a generator, 200 iterations for 150 images at once, against the default.",
    cases,
)
