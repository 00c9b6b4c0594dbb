"""The streams of `benchmarks.estimate`: made once, and kept frame by frame."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.collapse import VARIANTS
from grpo_tta import DriftGuard, GuardSettings, Method, ModelSettings, Reference, create_method, load_classifier
from grpo_tta.demo.packaged import pictures, reference_path
from grpo_tta.evaluation.accuracy import Measured, calibration_stream, measured_parts
from grpo_tta.evaluation.plans import Condition, ScenePictures, plan_frames
from grpo_tta.evaluation.run import StreamResult, run_stream
from grpo_tta.evaluation.stream_makers import make_plan
from grpo_tta.evaluation.streams import Frames, Segment, StreamSpec
from grpo_tta.settings import TentSettings

IMAGES = 500
"""Labelled normal images of a calibration."""
_CALIBRATION_SEED = 30_000


class Lab:
    """Streams of the demo model over fluent-emoji, with the guard as a job has it; their rows lie in ``folder``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._classifier = load_classifier(ModelSettings())
        drawings, labels = pictures()
        self._labels = labels
        self._scenes = ScenePictures(drawings, labels, self._classifier.preprocess.size[0])

    def steady(self, condition: Condition, seed: int, frames: int) -> StreamResult:
        """One condition from the initial state, classes at random."""
        spec = StreamSpec((Segment(frames, condition.kind, condition.severity),), seed)
        return self._kept(f"steady {condition.name} {seed} {frames}", self._grpo(), spec.frames(pictures()[0]))

    def planned(self, stream: str, condition: Condition, seed: int, frames: int) -> StreamResult:
        """A stream by its maker's name."""
        return self._kept(
            f"{stream} {condition.name} {seed} {frames}", self._grpo(), self._frames(stream, condition, seed, frames)
        )

    def broken(self, variant: str, condition: Condition, frames: int) -> StreamResult:
        """A method that collapses, or may: one of `benchmarks.collapse`, or ``tent`` with its step so often larger."""
        if variant in VARIANTS:
            method: Method = VARIANTS[variant].method(self._classifier, 0)
        else:
            larger = float(variant.removeprefix("tent x "))
            settings = TentSettings(learning_rate=TentSettings().learning_rate * larger)
            method = create_method("tent", self._classifier, settings)
        return self._kept(f"{variant} {condition.name} {frames}", method, self._frames("steady", condition, 2, frames))

    def calibration(self, seed: int, kinds: tuple[str, ...], method: str = "grpo") -> list[Measured]:
        """As ``grpo-tta calibrate`` measures it."""
        spec = StreamSpec((Segment(IMAGES),), _CALIBRATION_SEED + seed)
        (frames,) = spec.frames(pictures()[0], IMAGES)
        made = create_method(method, self._classifier)
        name = f"calibration {method} {seed} {len(kinds)} {kinds[0]}"
        return measured_parts(self._kept(name, made, calibration_stream(frames, kinds)), IMAGES, kinds)

    def _grpo(self) -> Method:
        return create_method("grpo", self._classifier)

    def _frames(self, stream: str, condition: Condition, seed: int, frames: int) -> Iterable[Frames]:
        return plan_frames(make_plan(stream, self._labels, frames, [condition], seed), self._scenes, 32)

    def _kept(self, name: str, method: Method, frames: Iterable[Frames]) -> StreamResult:
        path = self._folder / f"{name.replace(' ', '-').replace(':', '-')}.npz"
        if not path.exists():
            print(f"making {name}", file=sys.stderr, flush=True)
            reference = Reference.from_bytes(reference_path().read_bytes())
            guard = DriftGuard(GuardSettings(), self._classifier.class_vectors, reference)
            frozen = create_method("zero-shot", self._classifier)
            values = vars(run_stream(method, frames, guard=guard, frozen=frozen))
            arrays = {key: np.array(value) for key, value in values.items() if key != "resets"}
            resets = np.array([f"{frame} {cause}" for frame, cause in values["resets"]], dtype=str)
            part = path.with_name("part.npz")
            save: Any = np.savez_compressed
            save(part, **arrays, resets=resets)
            part.rename(path)
        with np.load(path) as file:
            loaded: dict[str, Any] = dict(file)
        pairs = [text.split() for text in loaded.pop("resets").tolist()]
        return StreamResult(**loaded, resets=[(int(frame), cause) for frame, cause in pairs])
