"""Where the pictures of labels are: a label's coordinate, and the source that it was read from.

The source is given, or the one of the job's ``summary.json``, or that of the listing in ``OUT/checkpoint``. A file's
coordinate holds its address; that of a manifest's line, and of a record in a Kafka topic, says where to read it.
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from grpo_tta.adapters.canvases import CanvasReader
from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.adapters.images import Canvas, CanvasSpec, ImageLimits
from grpo_tta.adapters.kafka.errors import KafkaFailure
from grpo_tta.adapters.kafka.replay import records_at
from grpo_tta.adapters.kafka.wire import decode_record, parse_coordinate, partition_name
from grpo_tta.adapters.storage.fetch import Fetcher
from grpo_tta.adapters.storage.filesystems import is_manifest
from grpo_tta.adapters.storage.listing import Listing
from grpo_tta.adapters.storage.manifest import read_manifest
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.pointers import listed_uri
from grpo_tta.pipeline.config.job import JobConfig, is_kafka, make_config
from grpo_tta.pipeline.config.kafka import settings_of
from grpo_tta.pipeline.config.policy import uri_policy
from grpo_tta.pipeline.config.values import default_checkpoint
from grpo_tta.pipeline.errors import ConfigurationError
from grpo_tta.schemas import LabeledImage

_UNKNOWN = "the source is not known: --source"
_GONE = "the source does not hold it any more"
_ATTEMPTS = 2


@dataclass
class Source:
    """A job's source as far as it is known; ``config`` None where it is not."""

    config: JobConfig | None
    _read: CanvasReader | None = None

    def __post_init__(self) -> None:
        if self.config is not None:
            source = self.config.source
            limits = ImageLimits(max_bytes=source.max_image_bytes, max_pixels=source.max_image_pixels)
            fetcher = Fetcher(uri_policy(self.config), max_bytes=source.max_image_bytes, attempts=_ATTEMPTS)
            self._read = CanvasReader(fetcher, limits)

    def canvas(self, ref: ImageRef, spec: CanvasSpec) -> Canvas:
        """Raises as `CanvasReader` does."""
        assert self._read is not None, "only what a known source refers to is fetched"
        return self._read(ref, spec)

    def refs(self, labels: Iterable[LabeledImage]) -> dict[str, ImageRef | str]:
        """By coordinate, in order: what to fetch, or why it cannot be."""
        labels = list(labels)
        if self.config is None:
            return {label.coordinate: _UNKNOWN for label in labels}
        if is_kafka(self.config.source.url):
            return _of_topics(self.config, labels)
        if is_manifest(self.config.source.url):
            return _of_manifest(self.config.source.url, labels)
        return {
            label.coordinate: ImageRef(
                label.coordinate, label.id, label.stream, 0, uri=listed_uri(label.coordinate) or None
            )
            for label in labels
        }


def _of_manifest(url: str, labels: list[LabeledImage]) -> dict[str, ImageRef | str]:
    found: dict[str, ImageRef | str] = {label.coordinate: _GONE for label in labels}
    left = set(found)
    try:
        for record in read_manifest(url):
            if record.coordinate in left and isinstance(record, ImageRef):
                found[record.coordinate] = record
                left.discard(record.coordinate)
                if not left:
                    break
    except OSError as error:
        return dict.fromkeys(found, f"{type(error).__name__}: the manifest cannot be read")
    return found


def _of_topics(config: JobConfig, labels: list[LabeledImage]) -> dict[str, ImageRef | str]:
    found: dict[str, ImageRef | str] = {label.coordinate: _GONE for label in labels}
    offsets: dict[str, set[int]] = defaultdict(set)
    for label in labels:
        place = _position(label.coordinate)
        if place is not None:
            offsets[partition_name(place.topic, place.partition)].add(place.offset)
    try:
        settings = settings_of(config, config.source.url)
        for name, wanted in sorted(offsets.items()):
            for record in records_at(settings, name, sorted(wanted)):
                ref = decode_record(record)
                if not isinstance(ref, BadRecord):
                    found[ref.coordinate] = ref
    except KafkaFailure as error:
        return {
            coordinate: ref if isinstance(ref, ImageRef) else type(error).__name__ for coordinate, ref in found.items()
        }
    return found


def _position(coordinate: str) -> Any:
    try:
        return parse_coordinate(coordinate)
    except ValueError:
        return None


def source_of(url: str, given: str | None = None) -> Source:
    """Of the job whose outputs lie at ``url``; raises `ConfigurationError` for a ``given`` one that is none."""
    configuration = _configuration(ObjectStore(url))
    values: dict[str, Any] = {key: configuration[key] for key in ("source",) if key in configuration}
    if security := configuration.get("kafka", {}).get("security"):
        values["kafka"] = {"security": security}
    if given is not None:
        values["source"] = {**values.get("source", {}), "url": given, "follow": False}
    if "source" not in values:
        return Source(None)
    try:
        return Source(make_config({**values, "output": {"url": "unused"}, "checkpoint": {"url": "unused"}}))
    except ConfigurationError:
        if given is not None:
            raise
        return Source(None)


def _configuration(store: ObjectStore) -> dict[str, Any]:
    """What is known of the job's: sections of its configuration. A folder's address in the listing is absolute."""
    known: dict[str, Any] = {}
    with suppress(FileNotFoundError, KeyError, TypeError, ValueError):
        known = dict(json.loads(store.read("summary.json"))["configuration"])
    with suppress(OSError, KeyError, TypeError, ValueError):
        listing = Listing.open(ObjectStore(default_checkpoint(store.url)))
        if listing is not None:
            known["source"] = {**known.get("source", {}), "url": json.loads(listing.origin)[0]}
    return known
