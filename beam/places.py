"""Which step of a pipeline writes what to which place: the files of a second one would replace the first's."""

from weakref import WeakKeyDictionary

import apache_beam as beam

from grpo_tta.pipeline.errors import ConfigurationError

_claimed: WeakKeyDictionary[beam.Pipeline, set[tuple[str, str]]] = WeakKeyDictionary()


def claim_place(pipeline: beam.Pipeline, url: str, kind: str) -> None:
    """Raises `ConfigurationError` where another step of the pipeline writes this kind there."""
    claimed = _claimed.setdefault(pipeline, set())
    place = url.rstrip("/"), kind
    if place in claimed:
        raise ConfigurationError(
            f"two steps of the pipeline write {kind} to {url!r}, and one would overwrite the other's: give them places "
            "of their own, or put beam.Flatten before one step"
        )
    claimed.add(place)
