"""Image generator of published model inversion."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from metazoo.errors import UsageError


class Generator(nn.Module):
    """Network from latent vectors to images in [0, 1], as in the published data-free meta-learning code.

    Linear map to 2 `width` maps of a quarter of the side, batch norm, then twice [nearest upsampling by 2, 3x3
    convolution, batch norm, LeakyReLU 0.2], a last 3x3 convolution and a sigmoid: 2.329 M parameters at 32 pixels,
    14.73 M at 84. Batch norm always uses the batch at hand, so the module stays in training mode.

    With `classes`, it is class-conditional as in the code of Trustworthy-DFML (TPAMI 2025): the latent vectors are
    mapped to the first `width` maps, and the one-hot labels, by a second linear map, to the others.

    Args:
        side: side of the square images in pixels, a multiple of 4.
        channels: number of image channels, 1 or 3.
        latent: size of the latent vectors.
        width: number of maps of the last hidden layer.
        classes: number of classes that the labels distinguish; 0 for images of latent vectors alone.

    Raises:
        UsageError: `side` is not a multiple of 4.
    """

    def __init__(self, side: int, channels: int = 3, *, latent: int = 256, width: int = 64, classes: int = 0) -> None:
        super().__init__()
        if side < 4 or side % 4:
            raise UsageError("generator", f"image side must be a multiple of 4, not {side}")
        self._first = (2 * width, side // 4, side // 4)
        size = math.prod(self._first)
        self.project = nn.Linear(latent, size // 2 if classes else size)
        self.project_classes = nn.Linear(classes, size // 2) if classes else None
        self.layers = nn.Sequential(
            nn.BatchNorm2d(2 * width),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, channels, 3, padding=1),
            nn.Sigmoid(),
        )

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw new weights: N(0, 0.02), batch norm scales N(1, 0.02), biases 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                mean = 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0
                drawn = torch.empty(module.weight.shape).normal_(mean, 0.02, generator=generator)
                module.weight.copy_(drawn)
                if module.bias is not None:
                    module.bias.zero_()

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images [n, channels, side, side] in [0, 1].

        Args:
            latents: latent vectors, float [n, latent].
            labels: classes, int64 [n], from 0; ignored without `classes`, needed with them.
        """
        values = self.project(latents)
        if self.project_classes is not None and labels is not None:
            one_hot = functional.one_hot(labels, self.project_classes.in_features).to(values)
            values = torch.cat([values, self.project_classes(one_hot)], 1)
        return self.layers(values.view(-1, *self._first))
