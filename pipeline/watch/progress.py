"""What a live job tells of itself, slice by slice."""

from collections.abc import Mapping
from dataclasses import dataclass

from grpo_tta.pipeline.checkpoint.partition import SliceResult


@dataclass(frozen=True)
class LiveProgress:
    """After a slice: what it did, and how far behind its owner is."""

    images: int
    seconds: float
    owned: Mapping[str, int]
    """Position by partition."""
    lag: Mapping[str, int]
    results: tuple[SliceResult, ...] = ()
    forgotten: tuple[str, ...] = ()
    """Streams that were dropped for want of images."""


class Watcher:
    """Is told what a live job does; this one tells nobody."""

    def owns(self, partitions: int) -> None:
        """So many partitions are this process's, before it makes a slice of them."""

    def turned(self) -> None:
        """The driver has come round, and nothing failed."""

    def failed(self, error: Exception) -> None:
        """A slice was dropped and will be tried again."""

    def committed(self, progress: LiveProgress) -> None:
        """A slice was committed."""
