from typing import Any

import pytest
import torch
from recover_helpers import recover, teacher_of, trained
from torch import Tensor

from metazoo.data.augment import shift_and_flip
from metazoo.models import ClassifierSpec, ImageClassifier, LibraryNetwork, build_classifier, build_network
from metazoo.recover import RecoveryConfig
from metazoo.recover.tokens import DROPS, PatchSelection, PatchTokens, patch_tokens

SIDE, PATCH = 16, 4
ARGUMENTS = {"patch_size": PATCH, "embed_dim": 16, "depth": 2, "num_heads": 2}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def transformer(side: int = SIDE) -> tuple[LibraryNetwork, PatchTokens]:
    spec = ClassifierSpec(
        architecture="timm:test_vit", arguments={**ARGUMENTS}, classes=3, input_size=side, mean=(0,) * 3, std=(1,) * 3
    )
    network = build_classifier(spec, seeded()).eval().requires_grad_(False).network
    tokens = patch_tokens(network)
    assert isinstance(network, LibraryNetwork)
    assert tokens is not None
    return network, tokens


def logits_without(network: LibraryNetwork, images: Tensor, kept: Tensor) -> Tensor:
    """Reference: one image after the other, with its other patches removed by hand."""
    body: Any = network.body
    rows = []
    for image, chosen in zip(images, kept, strict=True):
        tokens = body._pos_embed(body.patch_embed(image[None]))
        chosen_rows = [*range(body.num_prefix_tokens), *(body.num_prefix_tokens + chosen).tolist()]
        values = body.norm(body.blocks(body.norm_pre(tokens[:, chosen_rows])))
        rows.append(network.head(body.forward_head(values)))
    return torch.cat(rows)


def test_the_network_continues_with_the_kept_patches_alone() -> None:
    network, tokens = transformer()
    assert (tokens.rows, tokens.columns) == (4, 4)
    images = torch.rand(3, 3, SIDE, SIDE, generator=seeded())
    kept = torch.stack([torch.randperm(16, generator=seeded(row))[:5] for row in range(3)])
    whole = network(images)
    with tokens.only(kept):
        part = network(images)
    torch.testing.assert_close(part, logits_without(network, images, kept))
    assert not torch.allclose(part, whole, atol=1e-4)
    with tokens.only(None):
        assert torch.equal(network(images), whole)
    with pytest.raises(ZeroDivisionError), tokens.only(kept):
        raise ZeroDivisionError
    assert torch.equal(network(images), whole)  # the network is restored


def test_a_transformer_of_torchvision_is_known_too() -> None:
    network = build_network("torchvision:vit_b_32", classes=2, channels=3, input_size=64).eval().requires_grad_(False)
    tokens = patch_tokens(network)
    assert tokens is not None
    images = torch.rand(2, 3, 64, 64, generator=seeded())
    with tokens.only(torch.tensor([[2, 0, 3, 1], [0, 1, 3, 2]])):  # tokens already have their positions
        torch.testing.assert_close(network(images), network.head(network.features(images)))
        shuffled = network(images)
    torch.testing.assert_close(shuffled, network(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "architecture", ["timm:test_convnext", "timm:test_resnet", "conv4", "timm:swin_tiny_patch4_window7_224"]
)
def test_other_networks_have_no_patch_tokens(architecture: str) -> None:
    assert patch_tokens(build_network(architecture, classes=2, channels=3, input_size=56)) is None


def test_patches_with_the_least_gradient_are_dropped_first() -> None:
    _, tokens = transformer()
    start = torch.rand(2, 3, SIDE, SIDE, generator=seeded())
    selection = PatchSelection(tokens, start, 0.75, 8)
    order = torch.stack([torch.randperm(16, generator=seeded(row)) for row in range(2)])
    weights = torch.zeros(2, 16).scatter_(1, order, torch.arange(16.0).flip(0).expand(2, -1))
    weights = weights.view(2, 1, 4, 4).repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
    left = []
    for _ in range(8):
        pixels = start.clone().requires_grad_()
        images = selection.frozen(pixels)
        assert torch.equal(images, start)
        seen, kept = selection.detached(selection.attached(images))
        (gradient,) = torch.autograd.grad((seen * weights).sum(), pixels)
        left.append(16 if kept is None else kept.shape[1])
        if kept is not None:
            assert [set(row) for row in kept.tolist()] == [set(row[: left[-1]]) for row in order.tolist()]
            inside = torch.zeros(2, 16).scatter_(1, kept, 1.0).view(2, 1, 4, 4)
            inside = inside.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
            assert torch.equal(gradient, (weights * inside).expand_as(gradient))
        selection.step(start)
    assert left == [16, 11, 8, 6, 4, 4, 4, 4]
    assert len(set(left)) == DROPS + 1


def test_the_kept_patches_follow_a_shifted_image() -> None:
    _, tokens = transformer()
    start = torch.rand(1, 3, SIDE, SIDE, generator=seeded())
    selection = PatchSelection(tokens, start, 0.9, 8)
    weights = torch.zeros(1, 1, SIDE, SIDE)
    weights[..., 4:8, 4:8] = 1.0  # the patch in row 1, column 1
    for _ in range(8):
        pixels = start.clone().requires_grad_()
        seen, kept = selection.detached(selection.attached(pixels))
        torch.autograd.grad((seen * weights).sum(), pixels)
        selection.step(start)
    joined = selection.attached(start)
    images, kept = selection.detached(torch.roll(joined, (PATCH, -PATCH), (2, 3)))
    assert kept is not None
    assert 2 * 4 + 0 in kept[0].tolist()
    assert torch.equal(images, torch.roll(start, (PATCH, -PATCH), (2, 3)))
    whole = shift_and_flip(start, 2, seeded(5))
    assert torch.equal(selection.detached(shift_and_flip(joined, 2, seeded(5)))[0], whole)


def test_dropped_patches_remain_unchanged() -> None:
    network, _ = transformer()
    spec = ClassifierSpec(
        architecture="timm:test_vit", arguments={**ARGUMENTS}, classes=3, input_size=SIDE, mean=(0,) * 3, std=(1,) * 3
    )
    teacher = teacher_of(ImageClassifier(spec, network))
    config = RecoveryConfig(iterations=16, dropped_tokens=0.75)
    inversion = next(config.inversions(teacher, [torch.arange(3)], seeded()))
    pixels, selection = inversion.canvas.parameters[0], inversion.canvas.selection
    assert selection is not None
    dropped = torch.zeros(0)
    for _ in range(16):
        before, dropped = pixels.detach().clone(), (selection._mask == 0).expand_as(pixels)
        inversion.step()
        assert torch.equal(pixels[dropped], before[dropped])
        assert not torch.equal(pixels[~dropped], before[~dropped])
    assert dropped.float().mean() == pytest.approx(0.75)


def test_a_transformer_recognises_images_of_sparse_inversion() -> None:
    spec = ClassifierSpec(
        architecture="timm:test_vit",
        arguments={**ARGUMENTS},
        classes=4,
        input_size=SIDE,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )
    teacher, wanted = teacher_of(trained(spec, steps=160)), torch.arange(4).repeat(4)
    # No augmentation: the teacher was trained without, and a mirrored letter is another one.
    config = RecoveryConfig(iterations=60, total_variation=1, shift=0, dropped_tokens=0.5)
    result = recover(teacher, wanted, config, seeded())
    assert result.health.agreement > 0.8
    assert torch.equal(recover(teacher, wanted, config, seeded()).images, result.images)
    everywhere = recover(teacher, wanted, config.model_copy(update={"dropped_tokens": 0.0}), seeded())
    assert not torch.equal(everywhere.images, result.images)
