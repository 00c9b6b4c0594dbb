"""Settings of the drift guard. Where no label says otherwise a default is a choice of this project."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from grpo_tta.checks import AS_SECTION


@dataclass(frozen=True)
class GuardSettings:
    """Settings of the guard; raises ``ValueError`` naming the field and the value. All frames are a stream's own."""

    __pydantic_config__: ClassVar[dict[str, Any]] = AS_SECTION

    enabled: bool = True
    """Off: nothing is watched and nothing reset."""
    on_shift: Literal["reset", "event"] = "event"
    """A shift resets the stream, or is only reported; a gated stream learns anew after either. [ours]"""
    probe_frames: int = 32
    """Frames between two looks, at least 1."""
    reference_probes: int = 20
    """Probes that make a stream's own reference, at least 3."""
    shift_lambda: float = 15.0
    """Page-Hinkley's threshold, in standard deviations of a probe's distance, > 0."""
    shift_delta: float = 1.0
    """Page-Hinkley's drift allowance a probe, in the same unit, >= 0."""
    collapse_threshold: float = 0.15
    """Loss of diversity against the frozen encoder, over ln C, > 0 (`grpo_tta.guard.collapse.lost_diversity`)."""
    collapse_probes: int = 8
    """Memory of the marginals, in probes; nothing is judged before it is filled."""
    regret_threshold: float = 0.18
    """Rise of the adapted labels' expected error over the frozen ones', as a share of it, > 0, over 4 probes; also a
    collapse."""
    backstop_frames: int = 64_000
    """Frames without a reset after which the stream is pulled back; 0: never. [peer:RDumb, 1,000 updates of 64]"""
    backstop_pull: float = 0.5
    """Share of the way back then, 0 to 1."""
    cooldown_frames: int = 1_600
    """Three resets by collapse or non-finite values within ten cooldowns make the guard ill: the frozen encoder serves
    for ten cooldowns."""

    def __post_init__(self) -> None:
        if self.on_shift not in ("reset", "event"):
            raise ValueError(f"on_shift must be one of reset, event, got {self.on_shift!r}")
        for name, least in (("probe_frames", 1), ("reference_probes", 3), ("collapse_probes", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be >= {least}, got {getattr(self, name)}")
        for name in ("shift_lambda", "collapse_threshold", "regret_threshold"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        for name in ("shift_delta", "backstop_frames", "cooldown_frames"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        if not 0 <= self.backstop_pull <= 1:
            raise ValueError(f"backstop_pull must be in [0, 1], got {self.backstop_pull}")
