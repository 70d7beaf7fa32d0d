import pytest
import torch
from error_checks import raises

from metazoo.errors import UsageError
from metazoo.execution.compute import CPU, Compute, images_at_once, in_full_float32
from metazoo.execution.executor import default_workers


def test_the_cpu_is_exact_unless_asked_otherwise() -> None:
    assert Compute.choose("cpu") == CPU == Compute("cpu", "float32")
    assert Compute.choose("cpu:0") == CPU
    assert Compute.choose("cpu", "bfloat16").precision == "bfloat16"
    assert CPU.default_workers == default_workers()
    assert 1 <= Compute("cuda").default_workers <= 4


def test_a_gpu_gets_many_small_images_at_once_and_never_fewer_than_a_core() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert images_at_once(cpu, 16) == images_at_once(cpu, 224) == images_at_once(gpu, 1024)
    assert images_at_once(gpu, 32) == 4 * images_at_once(gpu, 64) > images_at_once(cpu, 32)


def test_the_default_is_the_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, expected in ((False, CPU), (True, Compute("cuda", "bfloat16"))):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=found: found)
        monkeypatch.setattr(torch.cuda, "device_count", lambda found=found: int(found))
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda found=found: found)
        assert Compute.choose() == expected
    assert Compute.choose(precision="float32") == Compute("cuda", "float32")


@pytest.mark.parametrize(
    ("device", "precision", "subject", "problem", "remedy"),
    [
        ("gpu", None, "device", "'gpu'", "cuda"),
        ("meta", None, "device", "'meta'", "cuda"),
        ("cuda", None, "device 'cuda'", "no GPU", "cpu"),
        ("cuda:7", None, "device 'cuda:7'", "no GPU", "cpu"),
        ("cpu", "float16", "precision", "'float16'", "float32, bfloat16"),
    ],
)
def test_missing_devices_and_unknown_names_are_refused(
    device: str, precision: str | None, subject: str, problem: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with raises(UsageError, subject=subject, problem=problem, remedy=remedy):
        Compute.choose(device, precision)


def test_a_gpu_beyond_the_last_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Compute.choose("cuda:1", "float32").device == "cuda:1"
    with raises(UsageError, subject="device 'cuda:2'", problem="2 GPUs"):
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
