"""``python -m demo.reference``: the packaged drift reference, from 9,600 clean frames of the packaged pictures.

It belongs to one set of weights and the guard's default probes; run it after ``demo.pack``. The frames' seed is used by
no stream of the project.
"""

import torch

from grpo_tta import Classifier, GuardSettings, Reference, ReferenceBuilder, load_classifier
from grpo_tta.demo import pictures, reference_path
from grpo_tta.evaluation.streams import Segment, StreamSpec

FRAMES = 9_600
SEED = 20_000


def calibrated(classifier: Classifier) -> Reference:
    """Of any classifier with the packaged classes."""
    builder = ReferenceBuilder(classifier.class_vectors, classifier.fingerprint, GuardSettings().probe_frames)
    for part in StreamSpec((Segment(FRAMES),), SEED).frames(pictures()[0], batch=32):
        with torch.no_grad():
            features = classifier.features(classifier.normalise(torch.from_numpy(part.canvases)))
            builder.add(features.cpu(), classifier.probabilities(features).cpu())
    return builder.build()


def main() -> None:
    reference = calibrated(load_classifier())
    reference_path().write_bytes(reference.to_bytes())
    print(f"{reference_path().name}: {reference.probes * reference.probe_frames} frames")


if __name__ == "__main__":
    main()
