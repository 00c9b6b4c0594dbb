"""Which model, and where it runs."""

from dataclasses import dataclass
from typing import Any, ClassVar

from grpo_tta.checks import AS_SECTION, ModelError

NAME_SCHEMES = ("local-dir:", "hf-hub:")
"""What a model's name may begin with: a folder, a hub."""


@dataclass(frozen=True)
class ModelSettings:
    """Which model, and where it runs. Raises ``ModelError`` for a combination that means nothing."""

    __pydantic_config__: ClassVar[dict[str, Any]] = AS_SECTION

    name: str | None = None
    """open_clip architecture, ``local-dir:PATH`` or ``hf-hub:ORG/NAME``; none: the demo model."""
    pretrained: str | None = None
    """With an architecture: open_clip's tag, a local weight file, or ``random`` (seeded weights, for tests of size
    and speed)."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or, in the file, ``cuda:N``."""
    autocast: bool = False
    """bfloat16 mixed precision; slow on CPUs without bfloat16 units."""
    threads: int | None = None
    """Torch's threads in this process, at least 1; none: torch's own choice."""
    preprocess: str | dict[str, Any] | None = None
    """How the weights want their images: as one of the architecture's tags (``openai``), or any of ``mean``,
    ``std`` (three numbers), ``interpolation`` (``bicubic``, ``bilinear``), ``resize_mode`` (``shortest``,
    ``longest``, ``squash``). Needed with a weight file where the architecture's published weights differ in it."""

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise ModelError(f"threads must be >= 1, got {self.threads}")
        if self.name is not None and not self.name.strip():
            raise ModelError(f"model name must not be blank, got {self.name!r}")
        if self.preprocess is not None and self.name is None:
            raise ModelError("preprocess goes with a model of one's own; the demo model has its own preprocessing")
        if self.pretrained is not None and (self.name is None or self.name.startswith(NAME_SCHEMES)):
            which = "the demo model" if self.name is None else f"model {self.name!r}"
            raise ModelError(f"pretrained goes with an open_clip architecture; {which} has its own weights")
