"""Which partition of a live job knows a stream: what every partition's newest commit says, read once a commit."""

import threading
from collections.abc import Mapping

from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.pipeline.checkpoint.log import CheckpointLog, is_own
from grpo_tta.schemas import Commit

PARTITIONS = "partitions"
_read: dict[str, tuple[str, frozenset[str]]] = {}
"""Of each partition, by the URL of its log, the commit that this process read last, and its streams."""
_lock = threading.Lock()


def partition_url(checkpoint_url: str, name: str) -> str:
    """Where the log of a live job's partition lies."""
    return f"{checkpoint_url.rstrip('/')}/{PARTITIONS}/{name}"


def known_streams(checkpoint_url: str, own: Mapping[str, Commit | None]) -> dict[str, frozenset[str]]:
    """Partition -> the streams it knows. Of those in ``own`` the caller holds the commit; what others have committed
    since the last call is read."""
    known = {name: frozenset(commit.states) for name, commit in own.items() if commit is not None}
    newest: dict[str, str] = {}
    for name in ObjectStore(checkpoint_url).names(f"{PARTITIONS}/"):
        partition, _, file = name.removeprefix(f"{PARTITIONS}/").partition("/")
        if file.startswith("commits/") and is_own(file) and partition not in own:
            newest[partition] = file
    with _lock:
        for partition, file in newest.items():
            url = partition_url(checkpoint_url, partition)
            if _read.get(url, ("",))[0] != file:
                _read[url] = (file, frozenset(CheckpointLog(ObjectStore(url)).commit_named(file).states))
            known[partition] = _read[url][1]
    return known
