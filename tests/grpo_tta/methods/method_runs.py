"""Streams through a method, and what came of them."""

from typing import Any

import torch
from torch import Tensor

from grpo_tta import Batch, Report, State
from grpo_tta.types import Method, StateValue
from grpo_tta.whitening import unit_rows

SMALL_VIEWS = {"views": 5, "confident_share": 0.5, "view_min_area": 0.3}
SMALL: dict[str, dict[str, Any]] = {
    "zero": SMALL_VIEWS,
    "vte": SMALL_VIEWS,
    "tent": {"update_every": 8},
    "sar": {"update_every": 8, "reliable_entropy": 1.0},
    "deyo": {"update_every": 8, "reliable_entropy": 1.0, "least_drop": 0.0, "patches": 3},
    "tpt-norm": SMALL_VIEWS,
    "rlcf": {**SMALL_VIEWS, "tune": "norm", "inner_steps": 2},
    "tda": {"entropy_from": 0.0, "entropy_to": 1.0},
    "dota": {"update_every": 8},
    "batclip": {"update_every": 8},
    "prior-correction": {"marginal_frames_per_class": 1.0},
}
"""Settings of rivals that make several updates of a few frames."""


def run(method: Method, batch: Batch, size: int, state: State | None = None) -> tuple[Tensor, State, list[Report]]:
    """All of ``batch`` in steps of ``size``, from ``state`` or the initial one: probabilities, state, reports."""
    state = state or method.initial_state()
    probabilities, reports = [], []
    for start in range(0, len(batch), size):
        prediction, state, report = method.step(batch[start : start + size], state)
        probabilities.append(prediction.probabilities)
        reports.append(report)
    return torch.cat(probabilities), state, reports


def assert_same(left: State, right: State) -> None:
    """Every entry, to the bit."""
    assert left.keys() == right.keys()
    for name, value in left.items():
        other = right[name]
        same = torch.equal(value, other) if isinstance(value, Tensor) and isinstance(other, Tensor) else value == other
        assert same, name


_HALF = {torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Rounding of columns in half precision, of their largest entry."""
_BYTES = {torch.int8: 3.0, torch.uint8: 1.0}
"""Rounding of columns of bytes; first moments are shares of a size that may be a step of its code off."""


def assert_close(left: State, right: State) -> None:
    """Every entry, to what other batches of the same frames may differ by."""
    assert left.keys() == right.keys()
    for name, value in left.items():
        other, allowed = right[name], 2e-4
        if name.endswith("_factor") and isinstance(value, Tensor) and isinstance(other, Tensor):
            # directions of equal variance are any rotation of each other: what counts is their covariance
            energies = name.replace("factor", "energies")
            value, other = _covariance(value, left[energies]), _covariance(other, right[energies])
            allowed = 1e-2 * float(value.abs().max())
        elif isinstance(value, Tensor) and value.dtype in _BYTES and isinstance(other, Tensor):
            value, other, allowed = value.float(), other.float(), _BYTES[value.dtype]
        elif name == "learnt" and isinstance(value, Tensor) and isinstance(other, Tensor):
            # Adam's step of an entry whose gradient is next to nothing may go either way: the whole is compared
            assert float((other.float() - value.float()).norm()) <= 0.02 * float(value.float().norm()), name
            continue
        elif isinstance(value, Tensor) and value.dtype in _HALF:
            allowed = _HALF[value.dtype] * float(value.abs().max())
        torch.testing.assert_close(other, value, atol=allowed, rtol=1e-2)


def _covariance(factor: Tensor, energies: StateValue) -> Tensor:
    assert isinstance(energies, Tensor)
    directions = unit_rows(factor)
    return directions.T @ (energies[:, None] * directions)
