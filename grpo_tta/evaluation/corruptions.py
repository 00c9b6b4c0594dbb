"""Image corruptions of five severities, scaled to the size of the image.

Kinds and severities follow ImageNet-C (Hendrycks and Dietterich, 2019), whose constants are meant for 224 pixels, and
its sibling for 64 pixels, Tiny-ImageNet-C. Each kind says what was kept and what is ours; the code is ours, and no
number of another benchmark can be compared with one obtained here. A frame is corrupted by its own seed alone: its
result does not depend on the batch it comes in.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from grpo_tta.evaluation.kinds import blur, digital, noise, weather
from grpo_tta.evaluation.kinds.base import Corruption

__all__ = ["CORRUPTIONS", "DEVELOPMENT", "Corruption", "CorruptionError", "corrupt"]

UInt8 = NDArray[np.uint8]
_SEVEREST = 5

CORRUPTIONS: dict[str, Corruption] = {
    kind.name: kind for family in (noise, blur, weather, digital) for kind in family.KINDS
}
DEVELOPMENT = ("gaussian_noise", "defocus_blur", "fog", "contrast", "jpeg_compression")
"""The kinds that settings may be chosen on. All others are held out: no accuracy on them is looked at before the final
table."""


class CorruptionError(ValueError):
    """A kind, severity or batch that cannot be corrupted."""


def corrupt(images: UInt8, kind: str, severity: int, seeds: Sequence[int] | NDArray[np.int64]) -> UInt8:
    """Corrupted frames, uint8 ``[B, 3, H, W]`` like ``images``; severity 0 returns a copy.

    Frame ``i`` depends on ``images[i]``, the kind, the severity and ``seeds[i]`` (not negative), and on nothing else.
    Raises ``CorruptionError``.
    """
    corruption = CORRUPTIONS.get(kind)
    if corruption is None:
        raise CorruptionError(f"kind must be one of {', '.join(CORRUPTIONS)}, got {kind!r}")
    if severity not in range(_SEVEREST + 1):
        raise CorruptionError(f"severity must be 0 (unchanged) to {_SEVEREST}, got {severity}")
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8:
        raise CorruptionError(f"images must be uint8 [B, 3, H, W], got {images.dtype} {list(images.shape)}")
    if len(seeds) != len(images):
        raise CorruptionError(f"one seed an image: got {len(seeds)} seeds for {len(images)} images")
    if severity == 0:
        return images.copy()
    level = corruption.levels[severity - 1]
    corrupted = np.empty_like(images)
    for row, (image, seed) in enumerate(zip(images, seeds, strict=True)):
        rng = np.random.Generator(np.random.PCG64(int(seed)))
        changed = corruption.apply(image * np.float32(1 / 255), rng, *level)
        corrupted[row] = np.clip(changed * 255 + np.float32(0.5), 0, 255)
    return corrupted
