import numpy as np
import pytest

from grpo_tta.evaluation.corruptions import corrupt
from grpo_tta.evaluation.streams import Frames, Segment, StreamSpec

PICTURES = np.random.default_rng(0).integers(0, 256, (5, 72, 72, 4), dtype=np.uint8)
SPEC = StreamSpec((Segment(20), Segment(13, "fog", 3), Segment(7)), seed=4)


def collected(spec: StreamSpec, batch: int) -> Frames:
    parts = list(spec.frames(PICTURES, batch))
    return Frames(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("canvases", "labels", "seeds"))
    )


def test_frames_are_the_same_whatever_the_batch() -> None:
    one, many = collected(SPEC, 1), collected(SPEC, 64)
    for name in ("canvases", "labels", "seeds"):
        assert np.array_equal(getattr(one, name), getattr(many, name))
    assert len(many.labels) == len(SPEC) == 40


def test_parts_end_where_a_segment_ends() -> None:
    assert [len(part.labels) for part in SPEC.frames(PICTURES, 16)] == [16, 4, 13, 7]
    assert SPEC.changes == [20, 33]


def test_another_seed_is_another_stream() -> None:
    other = StreamSpec(SPEC.segments, seed=5)
    assert not np.array_equal(collected(SPEC, 64).seeds, collected(other, 64).seeds)


def test_a_corrupted_segment_is_the_clean_one_corrupted() -> None:
    clean = StreamSpec((Segment(6),), seed=1)
    foggy = StreamSpec((Segment(6, "fog", 3),), seed=1)
    (plain,), (fog,) = clean.frames(PICTURES), foggy.frames(PICTURES)
    assert np.array_equal(plain.labels, fog.labels)
    _, seeds = foggy._draw(0, foggy.segments[0], len(PICTURES))
    assert np.array_equal(fog.canvases, corrupt(plain.canvases, "fog", 3, seeds[1]))


def test_by_class_each_class_comes_in_one_run() -> None:
    labels = collected(StreamSpec((Segment(60),), seed=2, order="by_class"), 64).labels
    runs = 1 + int((np.diff(labels) != 0).sum())
    assert runs == len(np.unique(labels))
    assert not np.array_equal(labels, np.sort(labels))


def test_segments_are_named_for_tables() -> None:
    assert [segment.name for segment in SPEC.segments] == ["clean", "fog:3", "clean"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Segment(0), "frames must be >= 1, got 0"),
        (lambda: Segment(1, "fog", 6), "severity must be 1 to 5, got 6"),
        (lambda: StreamSpec((), 0), "must have a segment"),
        (lambda: StreamSpec((Segment(1),), -1), "seed must be >= 0, got -1"),
        (lambda: StreamSpec((Segment(1),), 0, "sorted"), "order must be random or by_class, got 'sorted'"),
        (lambda: next(SPEC.frames(PICTURES, 0)), "batch must be >= 1, got 0"),
    ],
)
def test_bad_values_are_named(make: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
