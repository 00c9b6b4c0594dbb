"""``python -m demo.reference``: the packaged drift reference, from 9,600 clean frames of the packaged pictures.

Every second batch goes through the demo feed's JPEG files, every other one is as drawn: both are normal. It belongs to
one set of weights and the guard's default probes; run it after ``demo.pack``. The frames' seed is used by no stream of
the project.
"""

import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from grpo_tta import Classifier, GuardSettings, Reference, ReferenceBuilder, load_classifier
from grpo_tta.demo import pictures, reference_path
from grpo_tta.demo.feed import as_jpeg
from grpo_tta.evaluation.streams import Segment, StreamSpec

FRAMES = 9_600
SEED = 20_000


def calibrated(classifier: Classifier) -> Reference:
    """Of any classifier with the packaged classes."""
    builder = ReferenceBuilder(classifier.class_vectors, classifier.fingerprint, GuardSettings().probe_frames)
    for number, part in enumerate(StreamSpec((Segment(FRAMES),), SEED).frames(pictures()[0], batch=32)):
        canvases = _through_files(part.canvases) if number % 2 else part.canvases
        with torch.no_grad():
            features = classifier.features(classifier.normalise(torch.from_numpy(canvases)))
            builder.add(features.cpu(), classifier.probabilities(features).cpu())
    return builder.build()


def _through_files(canvases: NDArray[np.uint8]) -> NDArray[np.uint8]:
    read = [np.asarray(Image.open(io.BytesIO(as_jpeg(canvas)))) for canvas in canvases]
    return np.ascontiguousarray(np.stack(read).transpose(0, 3, 1, 2))


def main() -> None:
    reference = calibrated(load_classifier())
    reference_path().write_bytes(reference.to_bytes())
    print(f"{reference_path().name}: {reference.probes * reference.probe_frames} frames")


if __name__ == "__main__":
    main()
