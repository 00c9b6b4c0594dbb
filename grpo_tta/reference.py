"""What the guard compares a stream's input with: mean and spread of the frozen encoder's class residuals, probe by
probe.

Made from a stream's own first probes, or beforehand from a calibration source and then shared by all streams.
"""

import json
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

_MIN_PROBES = 3
_ENOUGH_PROBES = 5
"""From so many on a probe's neighbours are left out with it, which may show the same class or scene."""
_HEADER = ("centre", "scale", "probe_frames", "fingerprint")
_FLOOR = 0.05
_LEAST_DEVIATION = 1e-6
"""Of a residual: far under any picture's, over float32's rounding. A camera that always shows the same has no other."""
_LEAST_SCALE = 0.01


@dataclass(frozen=True)
class Reference:
    """``mean``, ``spread``: float32 ``[D]``. ``centre``, ``scale``: of the distances of each probe to those that are
    not beside it."""

    mean: Tensor
    spread: Tensor
    centre: float
    scale: float
    probe_frames: int
    """Frames of a probe: the spread of a mean is that of so many."""
    fingerprint: str = ""
    """Of the classifier it was made with; empty for a stream's own."""

    @classmethod
    def from_probes(cls, rows: Tensor, probe_frames: int, fingerprint: str = "") -> "Reference":
        """``rows``: mean residuals ``[probes, D]``, at least 3. Raises ``ValueError`` for fewer."""
        count = len(rows)
        if count < _MIN_PROBES:
            raise ValueError(f"a reference needs at least {_MIN_PROBES} probes, got {count}")
        rows = rows.double()
        near = 1 if count >= _ENOUGH_PROBES else 0
        distances = torch.stack(
            [_distance(rows[i], torch.cat([rows[: max(0, i - near)], rows[i + near + 1 :]])) for i in range(count)]
        )
        centre = distances.median()
        spread = 1.4826 * (distances - centre).abs().median()
        mean, deviation = _moments(rows)
        scale = max(float(spread), _FLOOR * float(centre), _LEAST_SCALE)
        return cls(mean.float(), deviation.float(), float(centre), scale, probe_frames, fingerprint)

    def to_bytes(self) -> bytes:
        """A safetensors file; deterministic."""
        header = {name: getattr(self, name) for name in _HEADER}
        return save(
            {"mean": self.mean, "spread": self.spread}, metadata={"reference": json.dumps(header, sort_keys=True)}
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "Reference":
        """The inverse of `to_bytes`; raises ``ValueError`` for anything else."""
        try:
            tensors = load(data)
            length = int.from_bytes(data[:8], "little")
            header: dict[str, Any] = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["reference"])
            return cls(tensors["mean"], tensors["spread"], **{name: header[name] for name in _HEADER})
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise ValueError(f"not a drift reference: {error}; make one with 'grpo-tta calibrate'") from error


class ReferenceBuilder:
    """Collects frozen features and makes a `Reference`; ``class_vectors``: ``[C, D]``."""

    def __init__(self, class_vectors: Tensor, fingerprint: str, probe_frames: int = 32) -> None:
        self._vectors = class_vectors.detach().float().cpu()
        self._fingerprint = fingerprint
        self._probe_frames = probe_frames
        self._pending = torch.zeros(0, self._vectors.shape[1])
        self._rows: list[Tensor] = []

    def add(self, features: Tensor, probabilities: Tensor) -> None:
        """Frozen features ``[B, D]`` and probabilities ``[B, C]`` of a batch, on CPU."""
        self._pending = torch.cat([self._pending, features - probabilities @ self._vectors])
        while len(self._pending) >= self._probe_frames:
            self._rows.append(self._pending[: self._probe_frames].mean(0))
            self._pending = self._pending[self._probe_frames :]

    @property
    def frames(self) -> int:
        """Frames in complete probes."""
        return len(self._rows) * self._probe_frames

    def build(self) -> Reference:
        """Raises ``ValueError`` under 3 complete probes."""
        if len(self._rows) < _MIN_PROBES:
            raise ValueError(
                f"a reference needs at least {_MIN_PROBES * self._probe_frames} images, "
                f"got {self.frames + len(self._pending)}"
            )
        return Reference.from_probes(torch.stack(self._rows), self._probe_frames, self._fingerprint)


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    deviation = rows.std(0, unbiased=True)
    return rows.mean(0), deviation.clamp_min(max(_FLOOR * float(deviation.mean()), _LEAST_DEVIATION))


def _distance(row: Tensor, others: Tensor) -> Tensor:
    mean, deviation = _moments(others)
    return ((row - mean) / deviation).square().mean()
