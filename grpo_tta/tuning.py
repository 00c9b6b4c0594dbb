"""What a stream may tune, and how its few tensors are laid over the shared tower.

A preset chooses tensors of the visual tower; a stream owns one flat float32 vector ``theta`` ``[P]`` (its *fast
weights*), and ``overrides(theta)`` turns it into named tensors for ``Classifier.features``, differentiable in
``theta``. A flat vector keeps states small and an optimiser step one operation.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from grpo_tta.checks import ModelError
from grpo_tta.settings import GrpoSettings, Tune

_LORA_SEED = 0
_FUSED = ("qkv", "to_qkv", "in_proj")
_NOT_AFFINE = ("GlobalResponseNorm",)


class FastWeights:
    """The layout of one preset on one tower, and the start every stream begins from.

    A preset without options may be given by its name. ``start`` ``[P]`` on the tower's device; ``size`` = P;
    ``attention``: module names that ``lora`` adapts. ``skip_last``: see `norm_tensors`. Raises ``ModelError`` where the
    tower has nothing of the kind.
    """

    def __init__(
        self, visual: nn.Module, settings: GrpoSettings | Literal["norm", "full"], *, skip_last: float = 0.0
    ) -> None:
        self.preset: Tune = settings.tune if isinstance(settings, GrpoSettings) else settings
        self.attention: dict[str, tuple[str, Tensor]] = {}
        if isinstance(settings, GrpoSettings) and settings.tune == "lora":
            self.attention = attention_weights(visual, settings.lora_blocks)
            pieces = _lora_start(self.attention, settings.lora_rank)
        else:
            named = norm_tensors(visual, skip_last) if self.preset == "norm" else dict(visual.named_parameters())
            pieces = {name: tensor.detach() for name, tensor in named.items()}
        self.names = tuple(pieces)
        self._shapes = [tuple(piece.shape) for piece in pieces.values()]
        self._lengths = [piece.numel() for piece in pieces.values()]
        self.start = torch.cat([piece.reshape(-1).float() for piece in pieces.values()])
        self.size = len(self.start)

    def pieces(self, theta: Tensor) -> dict[str, Tensor]:
        """``theta`` ``[..., P]`` cut into its named pieces; leading dimensions stay in front of each piece's own."""
        lead = theta.shape[:-1]
        parts = zip(self.names, torch.split(theta, self._lengths, dim=-1), self._shapes, strict=True)
        return {name: part.reshape(lead + shape) for name, part, shape in parts}

    def overrides(self, theta: Tensor) -> dict[str, Tensor]:
        """Tensors of the visual tower by name from ``theta`` ``[P]``: the pieces, or for ``lora`` ``W + B A``."""
        pieces = self.pieces(theta)
        if self.preset != "lora":
            return pieces
        return {
            weight_name: weight + pieces[f"{module}.lora_B"] @ pieces[f"{module}.lora_A"]
            for module, (weight_name, weight) in self.attention.items()
        }


def norm_tensors(visual: nn.Module, skip_last: float = 0.0) -> dict[str, Tensor]:
    """Affine tensors of every normalisation layer, by name. Running statistics are left alone.

    [peers: Tent, WATT, CLIPArTT, BATCLIP tune these] ``skip_last``: share of the layers, rounded up, that are left out
    at the tower's end; one always stays. Raises ``ModelError`` where there is none.
    """
    norms = [(prefix, module) for prefix, module in visual.named_modules() if is_norm(module)]
    kept = max(min(len(norms), 1), len(norms) - math.ceil(skip_last * len(norms)))
    found: dict[str, Tensor] = {}
    for prefix, module in norms[:kept]:
        for kind in ("weight", "bias"):
            tensor = getattr(module, kind, None)
            if isinstance(tensor, Tensor):
                found[f"{prefix}.{kind}" if prefix else kind] = tensor
    if not found:
        raise ModelError("the visual tower has no normalisation layer with a weight or bias: use tune 'lora'")
    return found


def is_norm(module: nn.Module) -> bool:
    """Whether ``module`` is a normalisation layer, of torch, open_clip or timm, with a ``weight`` of its own.

    Told by its class's name, which covers those that subclass nothing of torch's; the weight may be a frozen buffer.
    """
    kind = type(module).__name__
    named = "norm" in kind.lower() and kind not in _NOT_AFFINE
    return named and isinstance(getattr(module, "weight", None), Tensor)


def attention_weights(visual: nn.Module, blocks: int) -> dict[str, tuple[str, Tensor]]:
    """The fused query-key-value weights ``[3 D, D]`` of the last ``blocks`` attention layers: module -> (name, weight).

    [peer:TTL adapts q and v; the fused weight is ours] Raises ``ModelError`` where there is none.
    """
    found: dict[str, tuple[str, Tensor]] = {}
    for prefix, module in visual.named_modules():
        weight = getattr(module, "in_proj_weight", None)
        if isinstance(weight, Tensor):
            found[prefix] = (f"{prefix}.in_proj_weight", weight.detach())
        elif isinstance(module, nn.Linear) and prefix.rpartition(".")[2] in _FUSED:
            found[prefix] = (f"{prefix}.weight", module.weight.detach())
    if not found:
        raise ModelError("the visual tower has no attention with a fused qkv weight: use tune 'norm'")
    return dict(list(found.items())[-blocks:])


def _lora_start(targets: dict[str, tuple[str, Tensor]], rank: int) -> dict[str, Tensor]:
    """``A`` ``[rank, D]`` seeded at random, ``B`` ``[3 D, rank]`` zero: the start is the frozen tower exactly."""
    generator = torch.Generator().manual_seed(_LORA_SEED)
    pieces: dict[str, Tensor] = {}
    for module, (_, weight) in targets.items():
        rows, columns = weight.shape
        own_rank = min(rank, rows, columns)
        random = torch.randn(own_rank, columns, generator=generator) / math.sqrt(columns)
        pieces[f"{module}.lora_A"] = random.to(weight.device)
        pieces[f"{module}.lora_B"] = torch.zeros(rows, own_rank, device=weight.device)
    return pieces
