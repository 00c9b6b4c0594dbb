"""What the guard compares a stream's input with: mean and spread of the frozen encoder's class residuals, probe by
probe, and what the frames showed, by the frozen predictions.

Made from a stream's own first probes, or beforehand from a calibration source and then shared by all streams.

A probe that shows other classes than the reference, or one class alone, lies farther from it though no picture looks
otherwise: its frames are not as many observations. `inflation` says by how much the squared distance is to be expected
larger; every distance is divided by it. [ours]
"""

import json
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

_MIN_PROBES = 3
_VERSION = 2
_TENSORS = ("mean", "spread", "shown")
_HEADER = ("centre", "scale", "overlap", "probe_frames", "fingerprint")
_FLOOR = 0.05
_LEAST_DEVIATION = 1e-6
"""Of a residual: far under any picture's, over float32's rounding. A camera that always shows the same has no other."""
_LEAST_SCALE = 0.01


@dataclass(frozen=True)
class Reference:
    """``mean``, ``spread``: float32 ``[D]``, of the residuals. ``centre``, ``scale``: of the probes' leave-one-out
    distances, each over its `inflation`."""

    mean: Tensor
    spread: Tensor
    shown: Tensor
    """Mean frozen probabilities, float32 ``[C]``."""
    centre: float
    scale: float
    overlap: float
    """`overlap` of all its frames."""
    probe_frames: int
    """Frames of a probe: the spread of a mean is that of so many."""
    fingerprint: str = ""
    """Of the classifier it was made with; empty for a stream's own."""

    @classmethod
    def from_probes(cls, probes: "Probes", probe_frames: int, fingerprint: str = "") -> "Reference":
        """Raises ``ValueError`` for fewer than 3 probes."""
        count = len(probes.rows)
        if count < _MIN_PROBES:
            raise ValueError(f"a reference needs at least {_MIN_PROBES} probes, got {count}")
        rows = probes.rows.double()
        distances = torch.stack([_distance(rows[i], torch.cat([rows[:i], rows[i + 1 :]])) for i in range(count)])
        distances = distances / probes.inflations.double()
        centre = distances.median()
        deviation = 1.4826 * float((distances - centre).abs().median())
        mean, spread = _moments(rows)
        return cls(
            mean.float(),
            spread.float(),
            probes.shown.float(),
            centre=float(centre),
            scale=max(deviation, _FLOOR * float(centre), _LEAST_SCALE),
            overlap=overlap(probes.shown.float(), probes.purity, count * probe_frames),
            probe_frames=probe_frames,
            fingerprint=fingerprint,
        )

    def to_bytes(self) -> bytes:
        """A safetensors file; deterministic."""
        header = {"version": _VERSION, **{name: getattr(self, name) for name in _HEADER}}
        tensors = {name: getattr(self, name) for name in _TENSORS}
        return save(tensors, metadata={"reference": json.dumps(header, sort_keys=True)})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Reference":
        """The inverse of `to_bytes`; raises ``ValueError`` for anything else, a reference of another version too."""
        try:
            tensors = load(data)
            length = int.from_bytes(data[:8], "little")
            header: dict[str, Any] = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["reference"])
            if (version := header.get("version", 1)) != _VERSION:
                raise ValueError(f"it is of version {version}, this program's are of version {_VERSION}")
            mean, spread, shown = (tensors[name] for name in _TENSORS)
            return cls(mean, spread, shown, **{name: header[name] for name in _HEADER})
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise ValueError(f"not a drift reference: {error}; make one with 'grpo-tta calibrate'") from error


@dataclass(frozen=True)
class Probes:
    """Probes of a reference in the making. Each is compared with those before it, so that it need not be kept whole."""

    rows: Tensor
    """Mean residuals, ``[probes, D]``."""
    inflations: Tensor
    """`inflation` of each against those before it, ``[probes]``; the first's is 1."""
    shown: Tensor
    """Mean probabilities over all of them, ``[C]``."""
    purity: float
    """Mean over all frames of the squared norm of a frame's probabilities."""

    @classmethod
    def none(cls, classes: int, dimensions: int, dtype: torch.dtype = torch.float32) -> "Probes":
        """Kept as ``dtype``, but for the inflations."""
        return cls(torch.zeros(0, dimensions, dtype=dtype), torch.zeros(0), torch.zeros(classes, dtype=dtype), 0.0)

    def add(self, row: Tensor, shown: Tensor, purity: float, probe_frames: int) -> "Probes":
        """With one more probe: its mean residual ``[D]`` and mean probabilities ``[C]``, float32, and its purity."""
        count, before = len(self.rows), self.shown.float()
        factor = 1.0
        if count:
            factor = inflation(shown, purity, probe_frames, before, overlap(before, self.purity, count * probe_frames))
        kind = self.rows.dtype
        return Probes(
            torch.cat([self.rows, row[None].to(kind)]),
            torch.cat([self.inflations, torch.tensor([factor])]),
            torch.lerp(before, shown, 1 / (count + 1)).to(kind),
            self.purity + (purity - self.purity) / (count + 1),
        )


def overlap(shown: Tensor, purity: float, frames: int) -> float:
    """Mean dot product of the probabilities of two different ones of ``frames`` frames; 0 where there are not two.

    ``shown``: their mean ``[C]``; ``purity``: the mean dot product of a frame's with themselves.
    """
    return (frames * float(shown.square().sum()) - purity) / (frames - 1) if frames > 1 else 0.0


def inflation(shown: Tensor, purity: float, frames: int, reference: Tensor, reference_overlap: float) -> float:
    """How much larger a probe's squared distance is for what it shows, at least 1. [ours]

    ``1 + (frames - 1) d / purity`` with ``d`` the squared distance of what the probe and the reference show, without
    the part that is by chance: 0 where the probe's frames are drawn from what the reference shows; in a probe of one
    class that the reference hardly has, frames are one observation and the distance is ``frames`` times as large.
    """
    found = overlap(shown, purity, frames) - 2 * float(shown @ reference) + reference_overlap
    return 1.0 + (frames - 1) * max(0.0, found) / purity


class ReferenceBuilder:
    """Collects frozen features and makes a `Reference`; ``class_vectors``: ``[C, D]``."""

    def __init__(self, class_vectors: Tensor, fingerprint: str, probe_frames: int = 32) -> None:
        self._vectors = class_vectors.detach().float().cpu()
        self._fingerprint = fingerprint
        self._probe_frames = probe_frames
        classes, dimensions = self._vectors.shape
        self._pending = torch.zeros(0, dimensions), torch.zeros(0, classes)
        self._probes = Probes.none(classes, dimensions)

    def add(self, features: Tensor, probabilities: Tensor) -> None:
        """Frozen features ``[B, D]`` and probabilities ``[B, C]`` of a batch, on CPU."""
        residuals = torch.cat([self._pending[0], features - probabilities @ self._vectors])
        shown, size = torch.cat([self._pending[1], probabilities]), self._probe_frames
        while len(residuals) >= size:
            purity = float(shown[:size].square().sum(1).mean())
            self._probes = self._probes.add(residuals[:size].mean(0), shown[:size].mean(0), purity, size)
            residuals, shown = residuals[size:], shown[size:]
        self._pending = residuals, shown

    @property
    def frames(self) -> int:
        """Frames in complete probes."""
        return len(self._probes.rows) * self._probe_frames

    def build(self) -> Reference:
        """Raises ``ValueError`` under 3 complete probes."""
        if len(self._probes.rows) < _MIN_PROBES:
            raise ValueError(
                f"a reference needs at least {_MIN_PROBES * self._probe_frames} images, "
                f"got {self.frames + len(self._pending[0])}"
            )
        return Reference.from_probes(self._probes, self._probe_frames, self._fingerprint)


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    deviation = rows.std(0, unbiased=True)
    return rows.mean(0), deviation.clamp_min(max(_FLOOR * float(deviation.mean()), _LEAST_DEVIATION))


def _distance(row: Tensor, others: Tensor) -> Tensor:
    mean, deviation = _moments(others)
    return ((row - mean) / deviation).square().mean()
