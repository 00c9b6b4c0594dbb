"""What every job of the tests would do again at its beginning, done once a process."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session", autouse=True)
def heap_of_the_libraries() -> Iterator[None]:
    """Left out of the collections of all jobs."""
    if "grpo_tta.pipeline.run" not in sys.modules:  # no test of a job is among those that run
        yield
        return
    from grpo_tta.pipeline.run.garbage import settled_heap

    with settled_heap():
        yield


@pytest.fixture(scope="session", autouse=True)
def methods_of_steps() -> None:
    """Looked at once by Beam, as in a job, also where a test makes a pipeline of its own."""
    if "apache_beam" in sys.modules:
        from grpo_tta.pipeline.run.runner import inspect_once

        inspect_once()


@pytest.fixture(scope="session", autouse=True)
def packaged_classifier() -> Iterator[None]:
    """With its own classes it is the same for all; nothing writes to a classifier."""
    names = ("grpo_tta.pipeline.label.load", "grpo_tta.bench.models")
    modules = [sys.modules[name] for name in names if name in sys.modules]
    made: dict[str, Any] = {}

    def load_once(settings: Any = None, **given: Any) -> Any:
        from grpo_tta import load_classifier

        if any(value is not None for value in given.values()) or settings is None or settings.name is not None:
            return load_classifier(settings, **given)
        key = repr(settings)
        if key not in made:
            made[key] = load_classifier(settings)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            patch.setattr(module, "load_classifier", load_once)
        yield
