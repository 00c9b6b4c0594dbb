"""Whether the output files of the newest slices are still what was written: what a job does before it goes on.

A commit names its slice's with their digests; those of all commits that the checkpoint still holds are read, which are
``checkpoint.keep`` at least. A file that is gone was taken by its reader. One that has other bytes is refused, unless
another owner's attempt at its slice wrote them: one that was taken over in the middle of a slice may write after its
successor has committed, and the two agree to the rounding of a forward.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.sink import file_digest
from grpo_tta.pipeline.checkpoint.log import CheckpointLog, DamagedCheckpoint, epoch_of, own_names, sequence_of
from grpo_tta.pipeline.checkpoint.packs import PackReader, pack_of
from grpo_tta.schemas import Commit

_log = logging.getLogger(__name__)
_AT_ONCE = 16


def check_outputs(
    commit: Commit | None, log: CheckpointLog, checkpoint: ObjectStore, places: Sequence[ObjectStore]
) -> None:
    """Raises `DamagedCheckpoint`, which names the file, where one in ``places`` is not what ``commit``, the newest, or
    one before it says. ``checkpoint``: where their ``log`` lies."""
    if commit is None or not places:
        return
    wanted = [
        (place, held, name, digest)
        for held in log.held(commit)
        for name, digest in held.files.items()
        for place in places
    ]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda one: _check(checkpoint, *one), wanted))  # raises what a thread has raised


def _check(checkpoint: ObjectStore, place: ObjectStore, commit: Commit, name: str, digest: str) -> None:
    try:
        with place.open_read(name) as file:
            found = file_digest(file)
    except FileNotFoundError:
        return
    if found != digest and not _of_another_attempt(checkpoint, commit, name, found):
        raise DamagedCheckpoint(
            f"output file {name} is not what slice {commit.sequence} wrote ({place.url}): put it back from a copy, or "
            "delete it and do without what it held; files that are gone are not missed"
        )


def _of_another_attempt(checkpoint: ObjectStore, commit: Commit, name: str, found: str) -> bool:
    """Whether an owner whose plan for the slice was not committed has written the file, or may have and not got as far
    as its pack, which has the digests."""
    reader = PackReader(checkpoint)
    packs = own_names(checkpoint, "states/")
    for plan in own_names(checkpoint, "plans/"):
        epoch, sequence = epoch_of(plan), sequence_of(plan)
        if sequence != commit.sequence or epoch == commit.epoch:
            continue
        pack = pack_of(epoch, sequence)
        if pack not in packs:
            _log.warning("output file %s is not what was committed: epoch %d has written it, or damage", name, epoch)
            return True
        if reader.record(pack).get("files", {}).get(name) == found:
            return True
    return False
