import pytest
import torch

from metazoo.errors import UsageError
from metazoo.execution.compute import CPU, Compute, images_at_once, in_full_float32
from metazoo.execution.executor import default_workers


def test_the_cpu_is_exact_unless_asked_otherwise() -> None:
    assert Compute.choose("cpu") == CPU == Compute("cpu", "float32")
    assert Compute.choose("cpu:0") == CPU
    assert Compute.choose("cpu", "bfloat16").precision == "bfloat16"
    assert CPU.default_workers == default_workers()
    assert 1 <= Compute("cuda").default_workers <= 4


def test_a_gpu_is_shown_many_small_images_at_once_and_never_fewer_than_a_core() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert images_at_once(cpu, 16) == images_at_once(cpu, 224) == images_at_once(gpu, 1024)
    assert images_at_once(gpu, 32) == 4 * images_at_once(gpu, 64) > images_at_once(cpu, 32)


def test_without_a_word_it_is_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, expected in ((False, CPU), (True, Compute("cuda", "bfloat16"))):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        monkeypatch.setattr(torch.cuda, "device_count", lambda there=there: int(there))
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda there=there: there)
        assert Compute.choose() == expected
    assert Compute.choose(precision="float32") == Compute("cuda", "float32")


@pytest.mark.parametrize(
    ("device", "precision", "message"),
    [
        ("gpu", None, "unknown device 'gpu'; choose cpu, cuda"),
        ("meta", None, "unknown device 'meta'"),
        ("cuda", None, "torch finds no GPU; choose cpu"),
        ("cuda:7", None, "torch finds no GPU"),
        ("cpu", "float16", "unknown precision 'float16'; choose one of float32, bfloat16"),
    ],
)
def test_what_is_not_there_is_said(
    device: str, precision: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=message):
        Compute.choose(device, precision)


def test_a_gpu_beyond_the_last_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Compute.choose("cuda:1", "float32").device == "cuda:1"
    with pytest.raises(UsageError, match="torch finds 2 GPUs"):
        Compute.choose("cuda:2")


def test_mixed_precision_is_for_the_block_alone() -> None:
    layer, images = torch.nn.Conv2d(3, 2, 3), torch.rand(1, 3, 8, 8)
    with Compute("cpu", "bfloat16").mixed():
        assert layer(images).dtype == torch.bfloat16
    with CPU.mixed():
        assert layer(images).dtype == torch.float32
    assert layer(images).dtype == torch.float32


def test_mixed_precision_follows_the_steps_of_a_parameter() -> None:
    layer, values = torch.nn.Linear(2, 2, bias=False), torch.ones(1, 2)
    with Compute("cpu", "bfloat16").mixed():
        before = layer(values).detach()
        with torch.no_grad():
            layer.weight.mul_(4)
        assert torch.equal(layer(values), 4 * before)


@pytest.mark.parametrize("before", ["tf32", "ieee"])
def test_convolutions_are_of_full_float32_within_and_as_they_were_afterwards(before: str) -> None:
    convolutions = torch.backends.cudnn.conv  # pyright: ignore[reportAttributeAccessIssue]
    found = convolutions.fp32_precision
    try:
        convolutions.fp32_precision = before
        with in_full_float32():
            assert convolutions.fp32_precision == "ieee"
        assert convolutions.fp32_precision == before
    finally:
        convolutions.fp32_precision = found
