"""The published probe: torchvision's ResNet-34 trained on ImageNet, with its own 1000-way head.

It serves comparison with the paper. Class k of every task is scored against class k of ImageNet, so the embedding
depends on the arbitrary order of a teacher's classes, and the weights come from images that the user may not have.
Deviations: the probe is in evaluation mode (published: training mode), a task may have up to 1000 classes, and at most
36,864 entries are kept per tensor, see `kept_blocks`.
"""

from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Int64, UInt8
from safetensors.torch import load_file
from torch import Tensor, nn

from metazoo.errors import DataError, UsageError
from metazoo.taskspace.embeddings import TaskEmbedding
from metazoo.taskspace.probe import DEFAULT_CONFIG, ProbeConfig, fisher_of

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CLASSES = 1000


@final
class ImageNetProbe:
    """Probe from torchvision's ResNet-34.

    Args:
        network: network that maps normalised images [n, 3, side, side] to 1000 logits.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval().requires_grad_(True)

    @classmethod
    def load(cls, path: Path | str | None) -> "ImageNetProbe":
        """Read the weights from a .safetensors file, or from a .pt or .pth file that holds tensors only.

        Raises:
            UsageError: torchvision is not installed, or the file is missing, unreadable, or not one of a ResNet-34.
        """
        try:
            from torchvision.models import resnet34
        except ImportError as error:
            raise UsageError(
                "probe imagenet-resnet34", "torchvision is missing", "install the extra `metazoo[torchvision]`"
            ) from error
        network: nn.Module = resnet34()
        try:
            network.load_state_dict(_read(Path(str(path))))
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(str(path), f"no weights of a ResNet-34 ({reason})", "give another file") from error
        return cls(network)

    def embed(
        self,
        name: str,
        images: UInt8[Tensor, "n 3 side side"],
        labels: Int64[Tensor, " n"],
        config: ProbeConfig = DEFAULT_CONFIG,
    ) -> TaskEmbedding:
        """Compute the Fisher embedding of teacher `name`; for the arguments, see `Probe.embed`.

        Raises:
            DataError: a label is 1000 or more, or `diagonal_fisher` fails.
        """
        if int(labels.max()) >= _CLASSES:
            raise DataError(f"model {name!r}", f"more than {_CLASSES} classes", "choose another probe.architecture")
        mean, std = (images.new_tensor(values, dtype=torch.float32).view(1, 3, 1, 1) for values in (_MEAN, _STD))
        return TaskEmbedding(name, fisher_of(self.network, (images.float() / 255 - mean) / std, labels, config))


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)
