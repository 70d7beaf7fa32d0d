"""Tiny image classifiers of transformers with random weights, one of every kind that is supported."""

from typing import Any

import torch
import transformers

SIDE = 32
_VIT: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
_STAGES: dict[str, Any] = {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 2, 1]}
_SWIN: dict[str, Any] = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "patch_size": 4}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "BeitForImageClassification": _VIT | {"intermediate_size": 24, "use_relative_position_bias": True},
    "BitForImageClassification": {"hidden_sizes": [8, 16], "depths": [1, 1], "embedding_size": 8, "num_groups": 2},
    "ConvNextForImageClassification": _STAGES,
    "ConvNextV2ForImageClassification": _STAGES,
    "DeiTForImageClassification": _VIT | {"intermediate_size": 24},
    "Dinov2ForImageClassification": _VIT | {"mlp_ratio": 2},
    "Dinov2WithRegistersForImageClassification": _VIT | {"mlp_ratio": 2, "num_register_tokens": 2},
    "MobileNetV1ForImageClassification": {"depth_multiplier": 0.25},
    "MobileNetV2ForImageClassification": {"depth_multiplier": 0.35},
    "RegNetForImageClassification": _STAGES | {"embedding_size": 8, "groups_width": 4},
    "ResNetForImageClassification": _STAGES | {"embedding_size": 8, "layer_type": "basic"},
    "SwinForImageClassification": _SWIN,
    "Swinv2ForImageClassification": _SWIN,
    "ViTForImageClassification": _VIT | {"intermediate_size": 24},
}


def transformers_model(name: str, labels: list[str] | None = None, **changes: Any) -> Any:
    """As a user of the library would make it; its batch norms have seen something."""
    kind: Any = getattr(transformers, name)
    names = labels or ["cat", "dog", "emu"]
    sizes = {} if "image_size" not in kind.config_class().to_dict() else {"image_size": SIDE}
    config = kind.config_class(
        **ARGUMENTS[name] | sizes | changes,
        id2label=dict(enumerate(names)),
        label2id={n: i for i, n in enumerate(names)},
    )
    torch.manual_seed(5)
    model = kind(config)
    with torch.no_grad():
        model.train()(torch.randn(8, config.num_channels, SIDE, SIDE))
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    return model.eval()
