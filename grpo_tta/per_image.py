"""One forward over many images, each with fast weights of its own or of its stream.

A copy of the tower's structure shares every tensor with it, but its normalisation layers (preset ``norm``) or its
attention projections (``lora``) take one set of tuned tensors an image. The backward pass then gives every image its
own gradient at the price of one ordinary batch. [ours: every published peer adapts one image at a time]
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from grpo_tta.classifier import Classifier, PerThread, share_tensors
from grpo_tta.tuning import FastWeights, is_norm

_log = logging.getLogger(__name__)

_PROBE_TOLERANCE = 1e-3
_PROBE_IMAGES = 2
_PROBE_NOISE = 0.05


class PerImageTower:
    """Features of images under per-image fast weights, by one forward where the tower's layers allow it.

    ``batched`` says whether they do: it is settled when the tower is made, by comparing both ways on random pixels
    and weights, in full precision. Where they do not (``full``; an unknown layer, of which the log tells), there is a
    forward for each set of weights, with the same result.
    """

    def __init__(self, classifier: Classifier, fast_weights: FastWeights) -> None:
        self._classifier = classifier
        self._fast = fast_weights
        self._towers: PerThread[nn.Module] = PerThread(self._build)
        self.batched = fast_weights.preset != "full" and self._agrees()

    def features(self, pixels: Tensor, theta: Tensor, owner: Tensor | None = None) -> Tensor:
        """Unit features ``[B, V, D]`` of pixels ``[B, V, 3, H, W]``, image b under ``theta[owner[b]]`` of ``theta``
        ``[S, P]``; differentiable in ``theta``. ``owner`` int64 ``[B]`` ascends; ``None``: each image has its own."""
        if len(theta) == 1:
            return self._under(pixels, theta[0])
        if self.batched:
            return self._at_once(pixels, theta if owner is None else theta[owner])
        return self._one_by_one(pixels, theta, owner)

    def _at_once(self, pixels: Tensor, theta: Tensor) -> Tensor:
        flat = self._classifier.features(pixels.flatten(0, 1), self._fast.pieces(theta), self._towers.get())
        return flat.view(*pixels.shape[:2], -1)

    def _under(self, pixels: Tensor, theta: Tensor) -> Tensor:
        flat = self._classifier.features(pixels.flatten(0, 1), self._fast.overrides(theta))
        return flat.view(*pixels.shape[:2], -1)

    def _one_by_one(self, pixels: Tensor, theta: Tensor, owner: Tensor | None = None) -> Tensor:
        counts = [1] * len(theta) if owner is None else torch.bincount(owner, minlength=len(theta)).tolist()
        parts = zip(torch.split(pixels, counts), theta, strict=True)
        return torch.cat([self._under(images, own) for images, own in parts])

    def _build(self) -> nn.Module:
        tower = share_tensors(self._classifier.visual)
        for name, module in list(tower.named_modules()):
            if self._fast.preset == "norm" and is_norm(module):
                module.forward = _norm_forward(module)
            elif name in self._fast.attention:
                module.register_buffer("lora_A", None)
                module.register_buffer("lora_B", None)
                whole = isinstance(module, nn.MultiheadAttention)
                module.forward = functools.partial(_attention if whole else _projection, module)
        return tower

    @torch.no_grad()
    def _agrees(self) -> bool:
        generator = torch.Generator().manual_seed(0)
        size = self._classifier.preprocess.size
        pixels = torch.randn(_PROBE_IMAGES, 2, 3, *size, generator=generator).to(self._classifier.device)
        noise = torch.randn(_PROBE_IMAGES, self._fast.size, generator=generator).to(self._classifier.device)
        theta = self._fast.start + _PROBE_NOISE * noise
        try:
            if self._classifier.use_autocast:
                self._at_once(pixels, theta)
            with self._classifier.full_precision():
                apart = (self._at_once(pixels, theta) - self._one_by_one(pixels, theta)).abs().max()
        except (RuntimeError, TypeError, AttributeError) as error:  # a layer of a kind that is not known here
            _log.warning("this tower takes one stream's weights a forward: %s", error)
            return False
        alike = bool(apart < _PROBE_TOLERANCE)
        if not alike:
            _log.warning("this tower takes one stream's weights a forward: some layer mixes images")
        return alike


def _rows(values: Tensor, count: int) -> Tensor:
    """``[B, C]`` repeated to ``[count, C]``: the ``count / B`` views of an image are neighbours."""
    return values[:, None].expand(-1, count // len(values), -1).reshape(count, -1)


def _norm_forward(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """The forward of a normalisation layer whose ``weight`` and ``bias`` are ``[B, C]``."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
        return functools.partial(_batch_norm, module)
    bare = share_tensors(module)
    for kind, value in (("weight", torch.ones_like), ("bias", torch.zeros_like)):
        tensor = getattr(bare, kind, None)
        if isinstance(tensor, Tensor):
            delattr(bare, kind)
            bare.register_buffer(kind, value(tensor))
    for kind in ("drop", "act"):
        if hasattr(bare, kind):
            setattr(bare, kind, nn.Identity())
    channels_first = "2d" in type(module).__name__ or isinstance(
        module, nn.modules.batchnorm._BatchNorm | nn.GroupNorm | nn.modules.instancenorm._InstanceNorm
    )
    return functools.partial(_affine_norm, module, bare, channels_first)


def _batch_norm(module: Any, x: Tensor) -> Tensor:
    """Frozen running statistics and the affine part are one scale and one shift."""
    scale = module.weight * torch.rsqrt(module.running_var + module.eps)
    shift = module.bias - module.running_mean * scale
    shape = (len(x), -1) + (1,) * (x.ndim - 2)
    return _activated(module, _affine(x, _rows(scale, len(x)).view(shape), _rows(shift, len(x)).view(shape)))


def _affine_norm(module: Any, bare: nn.Module, channels_first: bool, x: Tensor) -> Tensor:
    ones = (1,) * (x.ndim - 2)
    shape = (len(x), -1, *ones) if channels_first else (len(x), *ones, -1)
    normal, weight = bare(x), _rows(module.weight, len(x)).view(shape)
    if module.bias is None:
        return _activated(module, normal * weight)
    return _activated(module, _affine(normal, weight, _rows(module.bias, len(x)).view(shape)))


class _Affine(torch.autograd.Function):
    """``x * scale + shift``. The backward pass of ``addcmul`` multiplies all of ``x`` by one first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale)
        return torch.addcmul(shift, x, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, scale = ctx.saved_tensors
        earlier = grad * scale if ctx.needs_input_grad[0] else None
        return earlier, (grad * x).sum_to_size(scale.shape), grad.sum_to_size(scale.shape)


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    result: Tensor = _Affine.apply(x, scale, shift)
    return result


def _activated(module: Any, y: Tensor) -> Tensor:
    """timm's layers that normalise and activate at once."""
    if hasattr(module, "drop"):
        y = module.drop(y)
    result: Tensor = module.act(y) if hasattr(module, "act") else y
    return result


def _low_rank(module: Any, x: Tensor) -> Tensor:
    """``x A^T B^T`` of tokens ``[N, ..., D]`` with the image's own ``A`` ``[B, r, D]`` and ``B`` ``[B, out, r]``."""
    tokens = x.reshape(len(module.lora_A), -1, x.shape[-1])
    return (tokens @ module.lora_A.mT @ module.lora_B.mT).view(*x.shape[:-1], -1)


def _projection(module: Any, x: Tensor) -> Tensor:
    return F.linear(x, module.weight, module.bias) + _low_rank(module, x)


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any
) -> tuple[Tensor, None]:
    """Self-attention of ``nn.MultiheadAttention`` with per-image projections."""
    if query is not key or key is not value or not module.batch_first or module.in_proj_weight is None:
        raise NotImplementedError("only self-attention with the batch in front")
    fused = F.linear(query, module.in_proj_weight, module.in_proj_bias) + _low_rank(module, query)
    heads = fused.view(*query.shape[:2], 3, module.num_heads, module.head_dim).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], attn_mask=attn_mask)
    return module.out_proj(mixed.transpose(1, 2).reshape(query.shape)), None
