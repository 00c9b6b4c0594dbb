"""A frozen CLIP-style image classifier: a visual tower, unit class vectors, a scale and a bias.

Read-only and shared by every stream of a process. Tuned tensors are handed to ``features`` and applied functionally, on
a shell of the tower that belongs to the calling thread and shares every tensor with it: neither another thread nor
another stream can see them, and the tower itself is never touched, not even for the length of a forward.
"""

import copy
import hashlib
import itertools
import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grpo_tta.checks import ModelError, check_names
from grpo_tta.device import autocast

T = TypeVar("T")


@dataclass(frozen=True)
class PreprocessCfg:
    """What the model expects of a canvas, as open_clip states it. ``size`` is (height, width) in pixels."""

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int = 0

    @classmethod
    def from_open_clip(cls, cfg: Mapping[str, Any]) -> "PreprocessCfg":
        """From open_clip's dictionary (``size`` a number or a pair). Raises ``ModelError`` naming a value out of
        range."""
        size = cfg.get("size", 224)
        height, width = (size, size) if isinstance(size, int) else tuple(size)
        mean, std = tuple(map(float, cfg["mean"])), tuple(map(float, cfg["std"]))
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0 or min(height, width) < 1:
            raise ModelError(
                f"preprocessing must have a size, three means and three positive deviations, got {dict(cfg)}"
            )
        return cls(
            size=(int(height), int(width)),
            mean=(mean[0], mean[1], mean[2]),
            std=(std[0], std[1], std[2]),
            interpolation=str(cfg.get("interpolation", "bicubic")),
            resize_mode=str(cfg.get("resize_mode", "shortest")),
            fill_color=int(cfg.get("fill_color", 0)),
        )


def digest_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()


class PerThread(Generic[T]):
    """A value made once in each thread that asks for it: modules whose tensors are swapped during a call need that."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._local = threading.local()

    def get(self) -> T:
        """This thread's value."""
        if not hasattr(self._local, "value"):
            self._local.value = self._make()
        value: T = self._local.value
        return value


class Classifier:
    """Class probabilities of canvases: softmax over classes of ``scale * cosine + bias``.

    ``class_vectors`` float32 ``[C, D]`` with unit rows, ``ensemble_vectors`` the same or ``None`` (a template
    ensemble, for the reward of that name). ``bias`` is SigLIP's: equal for all classes, so it moves logits and no
    probability; probabilities are a softmax for such a model too, because exactly one class is asked for.
    ``fingerprint`` is 16 hex digits over the weights, the class vectors (or what they were made from,
    ``text_digest``, which does not depend on a machine's rounding), scale, bias and preprocessing.
    """

    def __init__(
        self,
        visual: nn.Module,
        class_names: Sequence[str],
        class_vectors: Tensor,
        preprocess: PreprocessCfg,
        *,
        logit_scale: float,
        logit_bias: float = 0.0,
        device: torch.device | str = "cpu",
        use_autocast: bool = False,
        ensemble_vectors: Tensor | None = None,
        text_digest: bytes | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.class_names = check_names(class_names)
        self.class_vectors = self._unit(class_vectors, "class_vectors")
        self.ensemble_vectors = None if ensemble_vectors is None else self._unit(ensemble_vectors, "ensemble_vectors")
        self.logit_scale = float(logit_scale)
        self.logit_bias = float(logit_bias)
        if not (math.isfinite(self.logit_scale) and self.logit_scale > 0 and math.isfinite(self.logit_bias)):
            raise ModelError(f"logit scale must be > 0 and finite, got {logit_scale} (bias {logit_bias})")
        self.preprocess = preprocess
        self.use_autocast = use_autocast
        self.visual = visual.to(self.device).eval().requires_grad_(False)
        self.channels_last = sum(isinstance(module, nn.Conv2d) for module in visual.modules()) > 1
        if self.channels_last:
            self.visual.to(memory_format=torch.channels_last)
        std = torch.tensor(preprocess.std, device=self.device).view(1, 3, 1, 1)
        mean = torch.tensor(preprocess.mean, device=self.device).view(1, 3, 1, 1)
        self._pixel_scale, self._pixel_shift = 1 / (255 * std), -mean / std
        self._shell: PerThread[nn.Module] = PerThread(lambda: share_tensors(self.visual))
        self._check_width()
        self.fingerprint = self._fingerprint(text_digest)

    def _unit(self, vectors: Tensor, name: str) -> Tensor:
        if vectors.ndim != 2 or len(vectors) != len(self.class_names):
            raise ModelError(f"{name} must be [{len(self.class_names)}, D], one row a class, got {list(vectors.shape)}")
        vectors = vectors.detach().to(self.device, torch.float32)
        norms = vectors.norm(dim=1)
        bad = torch.nonzero(~(torch.isfinite(norms) & (norms > 0))).flatten().tolist()
        if bad:
            raise ModelError(
                f"{name} of {self.class_names[bad[0]]!r} is zero or not finite: every class needs a direction"
            )
        return vectors / norms[:, None]

    def _check_width(self) -> None:
        with torch.no_grad():
            features = self.features(torch.zeros(1, 3, *self.preprocess.size, device=self.device))
        if not bool(torch.isfinite(features).all()):
            raise ModelError(
                "the visual tower's features of a grey image are not finite: its weights are damaged or not its own"
            )
        width = features.shape[1]
        for name, vectors in (("class_vectors", self.class_vectors), ("ensemble_vectors", self.ensemble_vectors)):
            if vectors is not None and vectors.shape[1] != width:
                raise ModelError(
                    f"{name} are {vectors.shape[1]} wide, the visual tower gives {width}: "
                    "make them with the text tower of the same model"
                )

    def _fingerprint(self, text_digest: bytes | None) -> str:
        settings = {"scale": self.logit_scale, "bias": self.logit_bias, "preprocess": asdict(self.preprocess)}
        digest = hashlib.sha256(digest_tensors(self.visual.state_dict()))
        digest.update(text_digest or digest_tensors({"class_vectors": self.class_vectors}))
        digest.update(json.dumps(settings, sort_keys=True).encode())
        return digest.hexdigest()[:16]

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    def normalise(self, canvases: Tensor) -> Tensor:
        """Uint8 ``[B, 3, H, W]`` to the model's float32 pixels, on its device. Another size is a ``ValueError``."""
        if tuple(canvases.shape[2:]) != self.preprocess.size:
            height, width = self.preprocess.size
            raise ValueError(f"canvases are {canvases.shape[2]}x{canvases.shape[3]}, this model takes {height}x{width}")
        canvases = canvases.to(self.device)
        if self.channels_last:
            canvases = canvases.contiguous(memory_format=torch.channels_last)
        return canvases.to(torch.float32).mul_(self._pixel_scale).add_(self._pixel_shift)

    def features(
        self, pixels: Tensor, parameters: Mapping[str, Tensor] | None = None, tower: nn.Module | None = None
    ) -> Tensor:
        """Unit features float32 ``[N, D]`` of float pixels ``[N, 3, H, W]``.

        ``parameters`` replace tensors of the visual tower by name for this call; differentiable in them. ``tower`` is
        another module that takes them, its own thread's, in place of the visual tower.
        """
        return F.normalize(self.embeddings(pixels, parameters, tower), dim=-1)

    def embeddings(
        self, pixels: Tensor, parameters: Mapping[str, Tensor] | None = None, tower: nn.Module | None = None
    ) -> Tensor:
        """As `features`, before they are made unit."""
        with autocast(self.device, self.use_autocast):
            if parameters:
                output = torch.func.functional_call(tower or self._shell.get(), dict(parameters), (pixels,))
            else:
                output = self.visual(pixels)
        return pooled(output).float()

    @contextmanager
    def full_precision(self) -> Iterator[None]:
        """Without autocast, in the block, where nobody else uses the classifier."""
        before, self.use_autocast = self.use_autocast, False
        try:
            yield
        finally:
            self.use_autocast = before

    def logits(self, features: Tensor) -> Tensor:
        """``[N, C]`` from unit features ``[N, D]``: ``scale * cosine + bias``. [paper: CLIP similarities]"""
        logits = features @ (self.logit_scale * self.class_vectors).T
        return logits + self.logit_bias if self.logit_bias else logits

    def probabilities(self, features: Tensor) -> Tensor:
        """``[N, C]``, rows sum to 1."""
        return torch.softmax(self.logits(features), dim=-1)


def pooled(output: Any) -> Tensor:
    """The pooled embedding of a tower's output: some towers (CoCa) return it with their tokens."""
    result: Tensor = output[0] if isinstance(output, tuple | list) else output
    return result


def share_tensors(module: nn.Module) -> nn.Module:
    """A copy of ``module``'s structure that holds the very same parameters and buffers."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
