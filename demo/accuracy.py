"""``python -m demo.accuracy``: the packaged accuracy calibration, from 1,000 clean frames of the packaged pictures.

They go through the demo feed's JPEG files. It belongs to one set of weights and the default method; run it after
``demo.reference``. The frames' seed is used by no stream of the project.
"""

from demo.reference import through_files
from grpo_tta import keep_freed_memory, load_classifier
from grpo_tta.demo import accuracy_path, pictures, reference_path
from grpo_tta.evaluation.streams import Frames, Segment, StreamSpec
from grpo_tta.pipeline.config.job import make_config
from grpo_tta.pipeline.run.accuracy import calibrated

IMAGES = 1_000
SEED = 20_001


def main() -> None:
    keep_freed_memory()
    (drawn,) = StreamSpec((Segment(IMAGES),), SEED).frames(pictures()[0], batch=IMAGES)
    frames = Frames(through_files(drawn.canvases), drawn.labels, drawn.seeds)
    places = {"source": {"url": "unused"}, "output": {"url": "unused"}}
    config = make_config({**places, "guard": {"reference": str(reference_path())}})
    made = calibrated(config, load_classifier(), frames)
    made.save(accuracy_path())
    for name, side in (("adapted", made.adapted), ("frozen", made.frozen)):
        if side is not None:
            print(
                f"{name}: accuracy {100 * side.accuracy:.1f}, interval +-{100 * side.width.worst:.1f} at {made.window}"
            )


if __name__ == "__main__":
    main()
