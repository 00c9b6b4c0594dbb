"""Where a live job begins, decided once and written down: a job killed before its first commit does not begin somewhere
else the next time, and `latest` loses nothing that came meanwhile.

``starts.json`` of the checkpoint names the partitions that the topics had when the job was made: ``kafka.start`` is
about those, and a partition added later is read from its first record. ``start.json`` of each partition holds where it
begins, for as long as it has no commit and ``kafka.start`` says the same.
"""

from grpo_tta.adapters.kafka.offsets import KafkaOffsets
from grpo_tta.adapters.kafka.positions import Start
from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.sealed import read_sealed, seal_json
from grpo_tta.pipeline.errors import ConfigurationError

_KNOWN = "starts.json"
_OWN = "start.json"


class Starts:
    """``text``: ``kafka.start``; ``checkpoint``: the job's; ``topics``: of the source."""

    def __init__(self, text: str, checkpoint: ObjectStore, topics: tuple[str, ...], offsets: KafkaOffsets) -> None:
        self._text = text
        self._start = Start.parse(text)
        self._checkpoint = checkpoint
        self._topics = topics
        self._offsets = offsets

    def note(self) -> None:
        """Write down which partitions there are, unless a process of the job has. Raises a `KafkaFailure`."""
        if not self._checkpoint.exists(_KNOWN):
            known = self._offsets.partitions(self._topics)
            self._checkpoint.create(_KNOWN, seal_json(_KNOWN, {"partitions": known}))

    def of(self, name: str, store: ObjectStore) -> int:
        """The first offset to read of a partition without a commit, whose log lies in ``store``. `note` comes before.

        Raises `ConfigurationError` where explicit offsets leave it out, and a `KafkaFailure`.
        """
        if store.exists(_OWN):
            noted = read_sealed(store, _OWN)
            if noted["start"] == self._text:
                return int(noted["offset"])
        known = read_sealed(self._checkpoint, _KNOWN)["partitions"]
        try:
            offset = self._offsets.start(self._start if name in known else Start("earliest"), [name])[name]
        except ValueError as error:
            raise ConfigurationError(f"kafka.start: {error}") from error
        store.write(_OWN, seal_json(_OWN, {"start": self._text, "offset": offset}))
        return offset
