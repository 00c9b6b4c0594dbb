"""The demo model's image tower: a pretrained convolutional stem followed by a small vision transformer.

``timm`` knows it as ``grpo_tta_hybrid`` once this module is imported, so an open_clip configuration can name it. The
stem is EfficientNet-lite0 up to stride 16 (4 x 4 tokens of 112 channels at 64 pixels); then a linear layer, learned
positions, pre-norm transformer blocks, LayerNorm and a mean over the tokens. Every normalisation layer is a plain
``BatchNorm2d`` (or a subclass of it) or ``LayerNorm`` with affine parameters, there is no control flow that depends
on data and nothing is written in place, so the tower runs under ``torch.func.functional_call`` and ``torch.func.vmap``.
It is built without a network.
"""

from typing import Any

import timm
import torch
from timm.models import register_model
from torch import Tensor, nn

__all__ = ["Hybrid", "grpo_tta_hybrid"]

STEM = "tf_efficientnet_lite0"
STEM_BLOCKS = 5
STEM_WIDTH = 112
STEM_STRIDE = 16
_OPTIONS = ("num_classes", "img_size", "dim", "depth", "heads", "mlp_ratio")


class Attention(nn.Module):
    """Multi-head self-attention over tokens ``[B, N, D]``."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads must divide the width {dim}, got {heads}")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """The tokens' mixture, ``[B, N, D]``."""
        batch, tokens, dim = x.shape
        split = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = split[0], split[1], split[2]
        weights = (query @ key.transpose(-2, -1) * (dim // self.heads) ** -0.5).softmax(dim=-1)
        return self.proj((weights @ value).transpose(1, 2).reshape(batch, tokens, dim))


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a two-layer perceptron, each with its residual."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_ratio * dim), nn.GELU(), nn.Linear(mlp_ratio * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens in, tokens out, ``[B, N, D]``."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Hybrid(nn.Module):
    """Stem, transformer and head; images float ``[B, 3, img_size, img_size]`` to ``[B, num_classes]``.

    With ``num_classes`` 0 the head is the identity and the output has ``num_features`` columns.
    """

    def __init__(
        self,
        num_classes: int = 256,
        img_size: int = 64,
        dim: int = 192,
        depth: int = 4,
        heads: int = 3,
        mlp_ratio: int = 3,
    ) -> None:
        super().__init__()
        if img_size < STEM_STRIDE or img_size % STEM_STRIDE:
            raise ValueError(f"img_size must be a multiple of {STEM_STRIDE}, got {img_size}")
        convolutional = timm.create_model(STEM, pretrained=False)
        self.stem = nn.Sequential(convolutional.conv_stem, convolutional.bn1, *convolutional.blocks[:STEM_BLOCKS])
        self.embed = nn.Linear(STEM_WIDTH, dim)
        self.positions = nn.Parameter(torch.zeros(1, (img_size // STEM_STRIDE) ** 2, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads, mlp_ratio) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.num_features = dim
        self.head: nn.Module = nn.Linear(dim, num_classes) if num_classes else nn.Identity()
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward_tokens(self, features: Tensor) -> Tensor:
        """From the stem's features ``[B, 112, h, w]`` to the embedding."""
        x = self.embed(features.flatten(2).transpose(1, 2)) + self.positions
        return self.head(self.norm(self.blocks(x)).mean(dim=1))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images to embeddings, not of unit length."""
        return self.forward_tokens(self.stem(images))


@register_model
def grpo_tta_hybrid(pretrained: bool = False, **options: Any) -> Hybrid:
    """timm's entry point; ``pretrained`` must be false, for the weights come with the open_clip checkpoint."""
    if pretrained:
        raise ValueError("grpo_tta_hybrid has no timm weights of its own: load the demo model's open_clip checkpoint")
    return Hybrid(**{key: value for key, value in options.items() if key in _OPTIONS})
