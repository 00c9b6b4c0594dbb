"""Figures that others published, for orientation beside measured ones: top-1 accuracy in per cent, each with where it
was read. All are of OpenAI's CLIP ViT-B/16 unless the method's name says otherwise; none is ours, and none is of
GRPO-TTA, whose own tables are not known to us. Protocols differ: prompts, views, resets, larger reward models.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from grpo_tta.bench.suites.datasets import Suite

MEAN = "mean"
"""Of natural: -A, -V2, -R and -Sketch. Of corruption: the fifteen kinds at severity 5. Of cross-domain: the ten."""


@dataclass(frozen=True)
class Published:
    """One method in one source; ``figures`` by set, by ``kind:severity``, or `MEAN`."""

    suite: Suite
    method: str
    source: str
    figures: Mapping[str, float]


_NATURAL = ("imagenet", "imagenet-a", "imagenet-v2", "imagenet-r", "imagenet-sketch", MEAN)
_RLCF = "RLCF, project page, exp-classification.png"
_ZERO = "ZERO, repository, nds.png"
_DPE = "DPE, project page, ood_results.png"
_M2TPT = "M2TPT, text by character recognition"
_STS = "STS, third-party note"
_TTABC = "TTABC, project page (one protocol for all)"
_ZERO_X = "ZERO, repository, fg.png"
_DPE_X = "DPE, project page, cd_results.png"
_DOTA = "DOTA, third-party note"
_EITHER_X = "RLCF, project page, or ZERO, repository, fg.png"
_TTABC_C = "TTABC, project page (severity 5 inferred)"
_SUBTTA = "SubTTA, table 1 (images: probably 5,000 a kind)"
_BATCLIP = "BATCLIP, third-party note"

# Columns: ImageNet, -A, -V2, -R, -Sketch, mean of the last four; None: not given there. DiffTPT's mean is its source's,
# though its four figures make another.
_NATURAL_ROWS: tuple[tuple[str, str, tuple[float | None, ...]], ...] = (
    ('CLIP, "a photo of a"', _RLCF, (66.73, 47.87, 60.86, 73.98, 46.09, 57.20)),
    ("CLIP, template ensemble", _ZERO, (68.34, 49.89, 61.88, 77.65, 48.24, 59.42)),
    ("TPT", _RLCF, (68.98, 54.77, 63.45, 77.06, 47.94, 60.81)),
    ("DiffTPT", _DPE, (70.30, 55.68, 65.10, 75.00, 46.80, 60.52)),
    ("C-TPT", _M2TPT, (69.30, 52.90, 63.40, 78.00, 48.50, 60.70)),
    ("DynaPrompt", _M2TPT, (69.61, 56.17, 64.67, 78.17, 48.22, 61.81)),
    ("TPS", _DPE, (70.19, 60.08, 64.73, 80.27, 49.95, 63.76)),
    ("STS", _STS, (68.85, 61.23, 64.15, 77.13, 48.06, 62.64)),
    ("STS, 7 templates", _STS, (70.81, 64.29, 64.82, 80.53, 50.19, 64.96)),
    ("TTL (its CLIP: 67.30 on ImageNet)", "TTL, README", (70.23, 60.51, 64.55, 77.54, 48.61, 62.80)),
    ("MTA", "StatA, README", (69.3, None, None, None, None, None)),
    ("ZERO", _ZERO, (69.31, 59.61, 64.16, 77.22, 48.40, 62.35)),
    ("ZERO, template ensemble", _ZERO, (71.17, 62.75, 65.23, 80.75, 50.59, 64.83)),
    ("TDA", _DPE, (69.51, 60.11, 64.67, 80.24, 50.54, 63.89)),
    ("DMN-ZS", _DPE, (72.25, 58.28, 65.17, 78.55, 53.20, 63.80)),
    ("DPE", _DPE, (71.91, 59.63, 65.44, 80.40, 52.26, 64.43)),
    ("BoostAdapter", "wizwand, third-party page", (None, 64.53, None, None, None, None)),
    ("DOTA", _DOTA, (70.68, 61.19, 64.41, 81.17, 51.33, 64.52)),
    ("image encoder tuned: pseudo-label", _RLCF, (69.11, 62.15, 63.56, 80.03, 49.45, 63.80)),
    ("image encoder tuned: TPT's loss", _RLCF, (69.42, 61.62, 63.70, 79.74, 49.47, 63.63)),
    ("RLCF, prompt (reward ViT-L/14)", _RLCF, (73.23, 65.45, 69.77, 83.35, 54.74, 68.33)),
    ("RLCF, image encoder (reward ViT-L/14)", _RLCF, (74.85, 73.71, 69.77, 86.19, 57.10, 71.69)),
    ("RLCF-S-M (three reward models)", _RLCF, (75.48, 75.16, 70.42, 87.23, 57.73, 72.64)),
    ("distilled from ViT-L/14", _RLCF, (70.92, 66.39, 65.01, 82.12, 53.51, 66.76)),
    ("CLIP ViT-L/14", _RLCF, (73.44, 68.82, 67.80, 85.40, 57.84, 69.97)),
    ("ZERO, ViT-B/16 and ViT-L/14", _ZERO, (75.52, 75.15, 70.37, 87.21, 59.61, 73.09)),
    ('CLIP, "a photo of a"', _TTABC, (66.72, 47.87, 60.86, 73.98, 46.08, 57.20)),
    ("TPT", _TTABC, (68.85, 52.12, 63.06, 76.52, 47.94, 59.91)),
    ("TPS", _TTABC, (70.29, 58.44, 64.01, 79.30, 50.28, 63.01)),
    ("DPE", _TTABC, (70.20, 56.92, 63.61, 77.66, 50.79, 62.25)),
    ("BATCLIP", _TTABC, (66.92, 48.57, 60.94, 75.99, 44.33, 57.46)),
    ("ECALP", _TTABC, (70.18, 49.12, 62.27, 77.69, 51.74, 60.21)),
    ("DOTA", _TTABC, (70.70, 58.43, 63.74, 77.66, 50.27, 62.53)),
    ("OnZeta", _TTABC, (71.12, 48.55, 63.34, 75.48, 52.06, 59.86)),
    ("ZERO", _TTABC, (68.94, 56.08, 63.26, 76.67, 47.72, 60.93)),
    ("MTA", _TTABC, (69.02, 54.65, 63.17, 76.88, 48.36, 60.77)),
    ("SAR, layer norms", _TTABC, (None, None, None, None, None, 57.47)),
    ("DeYO, layer norms", _TTABC, (None, None, None, None, None, 57.86)),
)

_CROSS_ROWS: tuple[tuple[str, str, float], ...] = (
    ('CLIP, "a photo of a"', _ZERO_X, 63.58),
    ("CLIP, template ensemble", _ZERO_X, 65.20),
    ("CLIP, template ensemble", _DPE_X, 64.59),
    ("TPT", _DPE_X, 65.10),
    ("TPT", _ZERO_X, 64.78),
    ("DiffTPT", _DPE_X, 65.47),
    ("C-TPT", _M2TPT, 64.80),
    ("STS, 7 templates", _STS, 65.06),
    ("MTA", "StatA, README (mean of its ten figures)", 66.28),
    ("ZERO", _ZERO_X, 64.21),
    ("ZERO, template ensemble", _ZERO_X, 65.52),
    ("TDA", _DPE_X, 67.53),
    ("DMN-ZS", _M2TPT, 70.40),
    ("DPE", _DPE_X, 69.40),
    ("BoostAdapter", _DOTA, 68.68),
    ("DOTA", _DOTA, 70.68),
    ("RLCF, prompt, 3 steps (reward ViT-L/14)", _EITHER_X, 68.14),
    ("RLCF, image encoder, 3 steps (reward ViT-L/14)", _EITHER_X, 68.77),
    ("RLCF, image encoder, 1 step (reward ViT-L/14)", _EITHER_X, 67.07),
    ("CLIP ViT-L/14", _EITHER_X, 70.43),
    ("ZERO, ViT-B/16 and ViT-L/14", _ZERO_X, 71.05),
)

_CORRUPTION_ROWS: tuple[tuple[str, str, float], ...] = (
    *((method, _TTABC_C, mean) for method, mean in (("CLIP", 21.46), ("TPT", 25.55), ("TPS", 27.43), ("DPE", 27.74))),
    *((method, _TTABC_C, mean) for method, mean in (("BATCLIP", 30.91), ("ECALP", 29.76), ("DOTA", 25.81))),
    *((method, _TTABC_C, mean) for method, mean in (("OnZeta", 29.38), ("ZERO", 22.95), ("MTA", 25.42))),
    *((method, _TTABC_C, mean) for method, mean in (("SAR, layer norms", 31.62), ("DeYO, layer norms", 34.98))),
    *((method, _SUBTTA, mean) for method, mean in (("TDA", 26.22), ("ZERO", 24.90), ("VTE", 25.61), ("TPT", 24.85))),
    *((method, _SUBTTA, mean) for method, mean in (("RoTTA", 24.71), ("WATT", 26.18), ("STS", 27.06))),
    *((method, _SUBTTA, mean) for method, mean in (("Mint", 29.18), ("BATCLIP", 30.06), ("SubTTA", 32.15))),
    *((method, _BATCLIP, mean) for method, mean in (("CLIP", 24.51), ("TENT", 25.15), ("SAR", 29.73))),
    *((method, _BATCLIP, mean) for method, mean in (("WATT-S", 24.67), ("BATCLIP", 30.72))),
)

PUBLISHED: tuple[Published, ...] = (
    *(
        Published(
            "natural",
            method,
            source,
            {name: figure for name, figure in zip(_NATURAL, figures, strict=True) if figure is not None},
        )
        for method, source, figures in _NATURAL_ROWS
    ),
    *(Published("cross-domain", method, source, {MEAN: mean}) for method, source, mean in _CROSS_ROWS),
    Published("corruption", "CLIP", _SUBTTA, {"gaussian_noise:5": 11.14, MEAN: 24.54}),
    Published("corruption", "TENT", _SUBTTA, {"gaussian_noise:5": 5.20, MEAN: 25.18}),
    *(Published("corruption", method, source, {MEAN: mean}) for method, source, mean in _CORRUPTION_ROWS),
)
