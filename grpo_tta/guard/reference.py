"""What the guard compares a stream's input with: how the frozen encoder's features lie that their classes do not
explain, probe by probe.

Made from a stream's own first probes, or beforehand from a calibration source and then shared by all streams. The
latter has seen enough to know more: what of a feature its prediction explains, by regression on the mean class vector
of the prediction, and in which directions the rest varies, which the distance divides by. [ours; whitening is
Mahalanobis's distance] In both, the squared distances of frames to their mean are 1 on average: a distance of 0.25 is a
quarter of a frame's variance, whatever the model.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from grpo_tta.whitening import unexplained

VERSION = 2
"""Of the file. The first had no metric."""
_MIN_PROBES = 3
_ENOUGH_PROBES = 5
"""From so many on a probe's neighbours are left out with it, which may show the same class or scene."""
_HEADER = ("expected", "deviation", "classes", "probes", "probe_frames", "fingerprint")
_TENSORS = ("mean", "metric", "explained")
_FLOOR = 0.05
_LARGEST = 6e4
"""Of the metric, which float16 holds: of frames that are all alike it would have no bound."""
_LEAST_DEVIATION = 1e-6
"""Of a residual: far under any picture's, over float32's rounding. A camera that always shows the same has no other."""
_HALVES_FROM = 16
"""Probes from which on distances are those of one half in the metric of the other."""
_BLOCK = 4
"""Probes in a row that go to the same half."""
_RIDGE = 0.05
"""Of the regression, in mean variances of what is regressed on; with ``D / frames`` added. [ours]"""
_SHRINKAGE = 0.1
"""Of the covariance towards the identity, in mean variances; with ``D / frames`` added. [ours]"""


@dataclass(frozen=True)
class Reference:
    """Lengths are in its metric. A stream's own has a metric ``[D]``, one factor a dimension, and explains a fixed
    share of a feature (`grpo_tta.whitening.unexplained`); a calibrated one has matrices."""

    mean: Tensor
    """Of probes, ``[D]``."""
    metric: Tensor
    """``[D]`` or ``[D, D]``: a residual times it is what distances are taken of."""
    expected: float
    """Squared distance of a probe to the true mean, the median over probes."""
    deviation: float
    """Of such a distance from ``expected``, as a share of it."""
    classes: float
    """That were effectively shown, see `shown_classes`."""
    probes: int
    """That the mean is of."""
    probe_frames: int
    """Frames of a probe."""
    fingerprint: str = ""
    """Of the classifier it was made with; empty for a stream's own."""
    explained: Tensor | None = None
    """``[D, D]``: the mean class vector of a prediction times it is what the prediction explains."""

    @classmethod
    def from_probes(cls, rows: Tensor, variances: Tensor, classes: float, probe_frames: int) -> "Reference":
        """A stream's own: ``rows``, mean residuals ``[probes, D]``, at least 3, and ``variances`` of its frames'
        residuals ``[D]``. Raises ``ValueError`` for fewer."""
        count = len(rows)
        if count < _MIN_PROBES:
            raise ValueError(f"a reference needs at least {_MIN_PROBES} probes, got {count}")
        deviation = variances.double().sqrt()
        deviation = deviation.clamp_min(max(_FLOOR * float(deviation.mean()), _LEAST_DEVIATION))
        metric = 1 / (deviation * len(deviation) ** 0.5)
        placed = rows.double() * metric
        near = 1 if count >= _ENOUGH_PROBES else 0
        distances = [
            (placed[i] - torch.cat([placed[: max(0, i - near)], placed[i + near + 1 :]]).mean(0)).square().sum()
            for i in range(count)
        ]
        expected, spread = _of_distances(torch.stack(distances), count - 1)
        return cls(placed.mean(0).float(), metric.float(), expected, spread, classes, count, probe_frames)

    def residuals(self, features: Tensor, probabilities: Tensor, class_vectors: Tensor) -> Tensor:
        """``[B, D]`` of frozen features ``[B, D]`` and probabilities ``[B, C]``, before the metric."""
        if self.explained is None:
            return unexplained(features, probabilities, class_vectors)
        return features - probabilities @ class_vectors @ self.explained

    def placed(self, row: Tensor) -> Tensor:
        """A mean residual ``[D]`` in the metric."""
        return row @ self.metric if self.metric.ndim == 2 else row * self.metric

    def to_bytes(self) -> bytes:
        """A safetensors file; deterministic. Matrices are kept as float16."""
        header = {"version": VERSION, **{name: getattr(self, name) for name in _HEADER}}
        tensors = {name: value for name in _TENSORS if (value := getattr(self, name)) is not None}
        kept = {name: (value.half() if value.ndim == 2 else value).contiguous() for name, value in tensors.items()}
        header["digest"] = _digest(header, kept)
        return save(kept, metadata={"reference": json.dumps(header, sort_keys=True)})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Reference":
        """The inverse of `to_bytes`; raises ``ValueError`` for anything else."""
        try:
            tensors = load(data)
            length = int.from_bytes(data[:8], "little")
            header: dict[str, Any] = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["reference"])
            version = header.get("version", 1)
            if version != VERSION:
                raise ValueError(f"of version {version}, this build reads {VERSION}")
            digest = header.pop("digest", None)  # older ones have none
            if digest is not None and digest != _digest(header, tensors):
                raise ValueError("it is damaged, its digest is another")
            found: dict[str, Any] = {name: tensors[name].float() for name in _TENSORS if name in tensors}
            return cls(**found, **{name: header[name] for name in _HEADER})
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise ValueError(f"not a drift reference: {error}; make one with 'grpo-tta calibrate'") from error


def _digest(header: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """Of all that a reference's file says."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode() + value.numpy().tobytes())
    return digest.hexdigest()


def shown_classes(shown: Tensor) -> float:
    """How many classes sums of probabilities ``[C]`` effectively show: ``1 / sum q^2`` of their shares ``q``, which is
    how many frames of other classes their mean is worth. [ours; Simpson's index]"""
    total = float(shown.sum())
    return total * total / float(shown.square().sum()) if total > 0 else 1.0


@dataclass
class _Sums:
    """Over frames: of the rows ``[x, z]``, a feature and the mean class vector of its prediction, and of their outer
    products."""

    frames: int
    rows: Tensor
    products: Tensor

    @classmethod
    def nothing(cls, dimensions: int) -> "_Sums":
        return cls(0, torch.zeros(2 * dimensions).double(), torch.zeros(2 * dimensions, 2 * dimensions).double())

    def add(self, rows: Tensor) -> None:
        self.frames += len(rows)
        self.rows += rows.sum(0)
        self.products += rows.T @ rows

    def __add__(self, other: "_Sums") -> "_Sums":
        return _Sums(self.frames + other.frames, self.rows + other.rows, self.products + other.products)

    def fitted(self) -> tuple[Tensor, Tensor]:
        """What explains, and the metric of the rest, both float64 ``[D, D]``, to float16's precision."""
        dimensions = len(self.rows) // 2
        unit, more = torch.eye(dimensions).double(), dimensions / self.frames
        mean = self.rows / self.frames
        covariance = self.products / self.frames - torch.outer(mean, mean)
        of_x, of_z = covariance[:dimensions, :dimensions], covariance[dimensions:, dimensions:]
        across = covariance[dimensions:, :dimensions]
        ridge = max((_RIDGE + more) * float(of_z.trace()) / dimensions, _LEAST_DEVIATION**2)
        explained = torch.linalg.solve(of_z + ridge * unit, across).half().double()
        mixed = explained.T @ across
        rest = of_x - mixed - mixed.T + explained.T @ of_z @ explained
        energies, directions = torch.linalg.eigh((rest + rest.T) / 2)
        energies = energies.clamp_min(0)
        shrunk = energies + max((_SHRINKAGE + more) * float(energies.mean()), _LEAST_DEVIATION**2)
        whole = max(float((energies / shrunk).sum()), _LEAST_DEVIATION)
        scale = (shrunk * whole).sqrt().clamp_min(_LEAST_DEVIATION)
        metric = ((directions / scale) @ directions.T).clamp(-_LARGEST, _LARGEST)
        return explained, metric.half().double()


class ReferenceBuilder:
    """Collects frozen features and makes a `Reference`; ``class_vectors``: ``[C, D]``."""

    def __init__(self, class_vectors: Tensor, fingerprint: str, probe_frames: int = 32) -> None:
        self._vectors = class_vectors.detach().float().cpu()
        classes, dimensions = self._vectors.shape
        self._fingerprint = fingerprint
        self._probe_frames = probe_frames
        self._pending = torch.zeros(0, 2 * dimensions).double()
        self._rows: list[Tensor] = []
        self._halves = (_Sums.nothing(dimensions), _Sums.nothing(dimensions))
        self._shown = torch.zeros(classes)

    def add(self, features: Tensor, probabilities: Tensor) -> None:
        """Frozen features ``[B, D]`` and probabilities ``[B, C]`` of a batch, on CPU."""
        self._shown += probabilities.sum(0)
        rows = torch.cat([features, probabilities @ self._vectors], 1).double()
        self._pending = torch.cat([self._pending, rows])
        while len(self._pending) >= self._probe_frames:
            probe, self._pending = self._pending[: self._probe_frames], self._pending[self._probe_frames :]
            self._halves[_half(len(self._rows))].add(probe)
            self._rows.append(probe.mean(0))

    @property
    def frames(self) -> int:
        """Frames in complete probes."""
        return len(self._rows) * self._probe_frames

    def build(self) -> Reference:
        """Raises ``ValueError`` under 3 complete probes."""
        count = len(self._rows)
        if count < _MIN_PROBES:
            raise ValueError(
                f"a reference needs at least {_MIN_PROBES * self._probe_frames} images, "
                f"got {self.frames + len(self._pending)}"
            )
        rows = torch.stack(self._rows)
        explained, metric = (self._halves[0] + self._halves[1]).fitted()
        expected, deviation = self._distances(rows)
        return Reference(
            _placed(rows, explained, metric).mean(0).float(),
            metric.float(),
            expected,
            deviation,
            shown_classes(self._shown),
            count,
            self._probe_frames,
            self._fingerprint,
            explained.float(),
        )

    def _distances(self, rows: Tensor) -> tuple[float, float]:
        """``expected`` and ``deviation`` of probes in a metric that was not made of them, where they are enough."""
        if len(rows) < _HALVES_FROM:
            placed = _placed(rows, *(self._halves[0] + self._halves[1]).fitted())
            return _of_distances(_to_others(placed), len(rows) - 1)
        half = torch.tensor([_half(number) for number in range(len(rows))])
        distances = [_to_others(_placed(rows[half == own], *self._halves[1 - own].fitted())) for own in (0, 1)]
        return _of_distances(torch.cat(distances), len(rows) // 2 - 1)


def _half(probe: int) -> int:
    return probe // _BLOCK % 2


def _placed(rows: Tensor, explained: Tensor, metric: Tensor) -> Tensor:
    features, vectors = rows.chunk(2, 1)
    return (features - vectors @ explained) @ metric


def _to_others(rows: Tensor) -> Tensor:
    """Squared distances of each row to the mean of all others."""
    count = len(rows)
    return ((rows - rows.mean(0)) * count / (count - 1)).square().sum(1)


def _of_distances(distances: Tensor, others: int) -> tuple[float, float]:
    """``expected`` and ``deviation`` of distances to the mean of ``others`` probes, which errs too."""
    centre = float(distances.median())
    spread = 1.4826 * float((distances - centre).abs().median())
    least = max(centre, _LEAST_DEVIATION)
    return least * others / (others + 1), max(spread / least, _FLOOR)
