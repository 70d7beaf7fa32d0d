"""Sparse inversion of vision transformers: the least important patches are dropped step by step.

After SMI (Hu et al., ICML 2024, "Sparse Model Inversion"), which stops inverting patches of little attention, so that
later passes have fewer tokens. Deviations:

- The importance of a patch is the squared gradient of its pixels since the last drop (published: the attention of the
  class token). It costs no further pass and suits networks without a class token.
- Patches are dropped in `DROPS` steps over the first half of the iterations (published: at iterations 50, 100, 200 and
  300).
- For a shifted image, the teacher keeps the same number of patches, those that cover most of the kept pixels, so shifts
  need not be whole patches.

Dropped patches remain unchanged and are stored with the rest.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from metazoo.models import LibraryNetwork, Network

DROPS = 4


@dataclass(frozen=True)
class PatchTokens:
    """Patch tokens of a vision transformer after its position embedding.

    Attributes:
        module: module with the tokens as output, [n, prefix + rows * columns, width].
        prefix: number of tokens before the patches, such as a class token.
        rows: number of patches from top to bottom.
        columns: number of patches from left to right.
    """

    module: nn.Module
    prefix: int
    rows: int
    columns: int

    @contextmanager
    def only(self, kept: Int64[Tensor, "n k"] | None) -> Iterator[None]:
        """Keep only the patches `kept` of each image within the context; None for all."""
        if kept is None:
            yield
            return

        def drop(_module: nn.Module, _inputs: object, tokens: Tensor) -> Tensor:
            chosen = kept[..., None].expand(-1, -1, tokens.shape[-1])
            return torch.cat([tokens[:, : self.prefix], tokens[:, self.prefix :].gather(1, chosen)], 1)

        handle = self.module.register_forward_hook(drop)
        try:
            yield
        finally:
            handle.remove()


def patch_tokens(network: Network) -> PatchTokens | None:
    """Find the patch tokens of a timm or torchvision vision transformer with absolute positions; else None."""
    body = network.body if isinstance(network, LibraryNetwork) else None
    if type(body).__name__ != "VisionTransformer":
        return None
    library, parts = type(body).__module__.partition(".")[0], vars(body)
    if library == "timm" and getattr(body, "pos_embed", None) is not None:
        rows, columns = body.patch_embed.grid_size  # pyright: ignore
        return PatchTokens(body.patch_drop, body.num_prefix_tokens, rows, columns)  # pyright: ignore
    if library == "torchvision":
        side = parts["image_size"] // parts["patch_size"]
        return PatchTokens(body.encoder.dropout, 1, side, side)  # pyright: ignore
    return None


@final
class PatchSelection:
    """Patches of a batch whose pixels are still optimised.

    Args:
        tokens: tokens of the teacher.
        start: starting images.
        share: share of patches that are dropped in the end, in [0, 1).
        steps: number of steps of the inversion.
    """

    def __init__(
        self, tokens: PatchTokens, start: Float[Tensor, "n channels side side"], share: float, steps: int
    ) -> None:
        self.tokens = tokens
        patches = tokens.rows * tokens.columns
        # The same ratio at each drop; at least one patch remains.
        counts = [max(1, round(patches * (1 - share) ** (drop / DROPS))) for drop in range(1, DROPS + 1)]
        self._counts = {
            max(1, round(steps * drop / (2 * DROPS))): kept for drop, kept in enumerate(counts, 1) if kept < patches
        }
        self._steps_done = 0
        self._kept = torch.arange(patches, device=start.device).expand(len(start), -1)
        self._importance = start.new_zeros(len(start), patches)
        self._mask = torch.ones_like(start[:, :1])
        self._at_drop = start.clone()

    def frozen(self, pixels: Float[Tensor, "n channels side side"]) -> Float[Tensor, "n channels side side"]:
        """Detach the pixels of dropped patches."""
        return torch.where(self._mask.bool(), pixels, pixels.detach())

    def attached(self, images: Float[Tensor, "n c side side"]) -> Float[Tensor, "n c+1 side side"]:
        """Append the mask to images as a channel, so that it is augmented with them."""
        joined = torch.cat([images, self._mask], 1)
        if joined.requires_grad:
            joined.register_hook(self._observe)
        return joined

    def detached(
        self, joined: Float[Tensor, "n joined side side"]
    ) -> tuple[Float[Tensor, "n c side side"], Int64[Tensor, "n k"] | None]:
        """Split off the mask; return the images and the patches that cover most kept pixels, or None for all."""
        images, mask = joined[:, :-1], joined[:, -1:].detach()
        if self._kept.shape[1] == self._importance.shape[1]:
            return images, None
        return images, self._by_patch(mask).topk(self._kept.shape[1], 1).indices

    def restore(self, pixels: Float[Tensor, "n channels side side"]) -> None:
        """Restore dropped patches of `pixels`, which the momentum of the optimiser still changes."""
        pixels.copy_(torch.where(self._mask.bool(), pixels, self._at_drop))

    def step(self, pixels: Float[Tensor, "n channels side side"]) -> None:
        """Count a step after its gradient, and drop patches when due."""
        self._steps_done += 1
        if self._steps_done in self._counts:
            self._at_drop.copy_(pixels)
            importance = self._importance.gather(1, self._kept)
            best = importance.topk(self._counts[self._steps_done], 1).indices
            self._kept = self._kept.gather(1, best)
            grid = torch.zeros_like(self._importance).scatter_(1, self._kept, 1.0)
            grid = grid.view(-1, 1, self.tokens.rows, self.tokens.columns)
            self._mask = functional.interpolate(grid, size=self._mask.shape[-2:], mode="nearest")
            self._importance.zero_()

    def _observe(self, gradient: Tensor) -> None:
        self._importance += self._by_patch(gradient[:, :-1].detach().square().sum(1, keepdim=True))

    def _by_patch(self, values: Tensor) -> Tensor:
        return functional.adaptive_avg_pool2d(values, (self.tokens.rows, self.tokens.columns)).flatten(1)
