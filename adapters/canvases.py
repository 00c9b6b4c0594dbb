"""`CanvasReader`: the canvas of an event, whatever its reference points at."""

from grpo_tta.adapters.events import ImageRef
from grpo_tta.adapters.images import Canvas, CanvasSpec, ImageLimits, Repaired, decode
from grpo_tta.adapters.storage.fetch import Fetcher
from grpo_tta.adapters.storage.pointers import FramePointer, listed_version
from grpo_tta.adapters.video.frames import FrameReader


class CanvasReader:
    """Fetches and decodes, within the fetcher's policy and ``limits``; safe to call from many threads."""

    def __init__(self, fetcher: Fetcher, limits: ImageLimits) -> None:
        self._fetcher = fetcher
        self._limits = limits
        self._frames = FrameReader(limits)

    def __call__(self, ref: ImageRef, spec: CanvasSpec, repaired: Repaired | None = None) -> Canvas:
        """uint8 ``[3, height, width]``; ``repaired`` as of `decode`. Raises `PermanentFetchError` or `ImageError` for a
        dead letter, and `TransientFetchError`."""
        pointer = FramePointer.parse(ref.uri) if ref.uri is not None else None
        if pointer is None:
            return decode(self._fetcher.fetch(ref), spec, self._limits, repaired)
        frame, version = pointer, listed_version(ref.coordinate, ref.uri or "")
        return self._fetcher.attempt(
            ref, lambda _, __: self._frames.read(self._fetcher.allowed(frame.file), frame.pts, version, spec)
        )
