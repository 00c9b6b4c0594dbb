"""Photographs of ten things shown to a tower that is asked for a thousand classes: what counts as right."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks.photographs import measure, photographs, things_of
from demo.photographs import NAMES, THINGS, write_photographs
from grpo_tta import Batch, Classifier, create_method, load_classifier
from grpo_tta.bench.settings import parse_methods
from grpo_tta.evaluation.plans import CLEAN
from grpo_tta.pipeline.errors import ConfigurationError


@pytest.fixture
def asked_for_a_thousand() -> Classifier:
    """The demo's tower with its own class vectors for the classes of the things, and random ones for all others."""
    demo = load_classifier()
    vectors = F.normalize(torch.randn(1000, demo.class_vectors.shape[1], generator=torch.Generator().manual_seed(0)))
    known = np.flatnonzero(things_of(1000) >= 0)
    vectors[known] = demo.class_vectors[: len(known)]
    return Classifier(demo.visual, NAMES, vectors, demo.preprocess, logit_scale=demo.logit_scale)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pictures of each thing, as the build writes them."""
    monkeypatch.setattr("demo.photographs.PHOTOGRAPHS", tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
    write_photographs(noise, list(np.arange(30) % 10))
    return tmp_path


def test_a_class_is_of_one_thing_or_none() -> None:
    of = things_of(1000)
    listed = [index for classes in THINGS.values() for index in classes]
    assert len(listed) == len(set(listed)) == np.count_nonzero(of >= 0)
    assert list(things_of(10)) == list(range(10))
    assert all(of[index] == thing for thing, classes in enumerate(THINGS.values()) for index in classes)


def test_any_class_of_the_thing_is_right(asked_for_a_thousand: Classifier, folder: Path) -> None:
    pictures = photographs(asked_for_a_thousand, folder)
    canvases = pictures.load(np.arange(30), np.zeros(30, dtype=np.int64))
    method = create_method("zero-shot", asked_for_a_thousand)
    batch = Batch(torch.from_numpy(canvases), torch.arange(30))
    guesses = method.predict(batch, method.initial_state()).probabilities.argmax(1).numpy()
    # In the folder's order, which is the things'; a stream has another, with the same frames.
    expected = sum(guess in list(THINGS.values())[at // 3] for at, guess in enumerate(guesses))
    shown, frozen, right = measure(asked_for_a_thousand, CLEAN, parse_methods("zero-shot"), 30, 0, folder)
    assert sorted(shown) == sorted(list(range(10)) * 3)
    assert frozen.sum() == expected > 0
    assert (right["zero-shot"] == frozen).all()


def test_without_photographs_it_says_so(asked_for_a_thousand: Classifier, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such folder"):
        photographs(asked_for_a_thousand, tmp_path / "none")
