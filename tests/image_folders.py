"""Folders of images as users have them."""

from pathlib import Path

import torch
from PIL import Image

SIDE = 16


def write_images(folder: Path, classes: int, each: int, first: int = 0) -> Path:
    """Write one folder per class, `colour-<number>`, with `each` images of noise around a colour; return `folder`."""
    for number in range(first, first + classes):
        random = torch.Generator().manual_seed(number)
        colour = torch.randint(40, 216, (3,), generator=random)
        target = folder / f"colour-{number}"
        target.mkdir(parents=True)
        for index in range(each):
            noise = torch.randint(-40, 40, (SIDE, SIDE, 3), generator=random)
            Image.fromarray((colour + noise).clamp(0, 255).byte().numpy()).save(target / f"{index}.png")
    return folder
