"""``python -m demo.accuracy``: the packaged accuracy calibration, from 500 clean frames of the packaged pictures.

They are corrupted by the development kinds alone, where ``grpo-tta calibrate --accuracy`` takes every kind. It belongs
to one set of weights and the default method; run it after ``demo.reference``. The frames are those of the first
calibration of ``benchmarks.estimate``; their seed is used by no other stream of the project.
"""

from grpo_tta import keep_freed_memory, load_classifier
from grpo_tta.demo import accuracy_path, pictures, reference_path
from grpo_tta.evaluation.corruptions import DEVELOPMENT
from grpo_tta.evaluation.streams import Segment, StreamSpec
from grpo_tta.pipeline.config.job import make_config
from grpo_tta.pipeline.run.accuracy import calibrated

IMAGES = 500
SEED = 30_000


def main() -> None:
    """Write the file, print the accuracies."""
    keep_freed_memory()
    (frames,) = StreamSpec((Segment(IMAGES),), SEED).frames(pictures()[0], batch=IMAGES)
    places = {"source": {"url": "unused"}, "output": {"url": "unused"}}
    config = make_config({**places, "guard": {"reference": str(reference_path())}})
    made = calibrated(config, load_classifier(), frames, DEVELOPMENT)
    made.save(accuracy_path())
    for name, side in (("adapted", made.adapted), ("frozen", made.frozen)):
        if side is not None:
            print(
                f"{name}: accuracy {100 * side.accuracy:.1f}, interval +-{100 * side.width.bound:.1f} at {made.window}"
            )


if __name__ == "__main__":
    main()
