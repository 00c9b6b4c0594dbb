"""What every job of these tests would do again at its beginning, done once a process."""

from collections.abc import Iterator
from typing import Any

import pytest

from grpo_tta import Classifier, load_classifier
from grpo_tta.bench import models
from grpo_tta.pipeline.label import load
from grpo_tta.pipeline.run.garbage import settled_heap


@pytest.fixture(scope="session", autouse=True)
def heap_of_the_libraries() -> Iterator[None]:
    """Left out of the collections of all jobs."""
    with settled_heap():
        yield


@pytest.fixture(scope="session", autouse=True)
def packaged_classifier() -> Iterator[None]:
    """With its own classes it is the same for all; nothing writes to a classifier."""
    made: dict[str, Classifier] = {}

    def load_once(settings: Any = None, **given: Any) -> Classifier:
        if any(value is not None for value in given.values()) or settings is None or settings.name is not None:
            return load_classifier(settings, **given)
        key = repr(settings)
        if key not in made:
            made[key] = load_classifier(settings)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        for module in (load, models):
            patch.setattr(module, "load_classifier", load_once)
        yield
