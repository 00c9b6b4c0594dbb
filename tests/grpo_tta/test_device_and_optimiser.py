"""Devices by name, the allocator, and Adam against torch's own."""

import sys

import pytest
import torch

from grpo_tta.device import autocast, keep_freed_memory, resolve_device
from grpo_tta.optimiser import adam, adam_in_bytes, no_moments


def test_devices_by_name() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["tpu", "cuda:x", "CPU", ""])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got"):
        resolve_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match="device 'cuda' asked for, but torch sees no CUDA device: use 'cpu' or 'auto'"):
        resolve_device("cuda")


def test_autocast_is_off_unless_asked_for() -> None:
    left = torch.ones(2, 2)
    with autocast(torch.device("cpu"), False):
        assert (left @ left).dtype == torch.float32
    with autocast(torch.device("cpu"), True):
        assert (left @ left).dtype == torch.bfloat16


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_keeping_freed_memory_is_answered() -> None:
    assert keep_freed_memory() in (True, False)


def test_adam_is_torchs_adam_and_changes_no_argument() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(40, generator=generator)
    reference = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([reference], lr=1e-2)
    theta, first, second = start, torch.zeros(40), torch.zeros(40)
    for step in range(1, 6):
        gradient = torch.randn(40, generator=generator)
        reference.grad = gradient.clone()
        optimiser.step()
        kept = [tensor.clone() for tensor in (theta, gradient, first, second)]
        new = adam(theta, gradient, first, second, step=step, rate=1e-2)
        assert all(torch.equal(a, b) for a, b in zip((theta, gradient, first, second), kept, strict=True))
        theta, first, second = new
    torch.testing.assert_close(theta, reference.detach())


def test_adam_in_bytes_is_adam_in_the_mean() -> None:
    generator, size = torch.Generator().manual_seed(0), 4000
    usual = torch.logspace(-5, 1, size)
    first, second = no_moments(size)
    m, v, learnt, expected = torch.zeros(size), torch.zeros(size), torch.zeros(size), torch.zeros(size)
    for step in range(1, 401):
        gradient = usual * (0.3 + torch.randn(size, generator=generator)) * (torch.arange(size) > 0)
        moved, m, v = adam(expected, gradient, m, v, step=step, rate=1e-3)
        count, rate = torch.tensor(float(step), dtype=torch.float64), torch.tensor(1e-3)
        change, first, second = adam_in_bytes(gradient, first, second, step=count, rate=rate)
        expected, learnt = moved, learnt + change
        assert (first.dtype, second.dtype) == (torch.int8, torch.uint8)
    assert learnt[0] == 0
    size_kept, exact = torch.exp2(second[1:].float() / 8 - 20), (v[1:] / (1 - 0.999**400)).sqrt()
    assert float((size_kept / exact).log().mean()) == pytest.approx(0, abs=0.02)
    assert float((size_kept / exact).log().std()) < 0.15
    assert float(learnt @ expected / (learnt.norm() * expected.norm())) > 0.99
    assert float(learnt.norm() / expected.norm()) == pytest.approx(1, abs=0.03)
