"""Whether the output files of the newest slices are still what was written: what a job does before it goes on.

A commit names its slice's with their digests; those of all commits that the checkpoint still holds are read, which are
``checkpoint.keep`` at least. A file that is gone was taken by its reader. One that has other bytes is refused, unless
another attempt at its slice wrote them: an owner that was taken over in the middle of a slice may end it after the next
owner has, and the two agree to the rounding of a forward.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from grpo_tta.adapters.storage.objects import ObjectStore
from grpo_tta.adapters.storage.sink import file_digest
from grpo_tta.pipeline.checkpoint.log import CheckpointLog, DamagedCheckpoint
from grpo_tta.pipeline.checkpoint.packs import PackReader, pack_sequence
from grpo_tta.schemas import Commit

_AT_ONCE = 16


def check_outputs(
    commit: Commit | None, log: CheckpointLog, checkpoint: ObjectStore, places: Sequence[ObjectStore]
) -> None:
    """Raises `DamagedCheckpoint`, which names the file, where one in ``places`` is not what ``commit``, the newest, or
    one before it says. ``checkpoint``: where their ``log`` lies."""
    if commit is None or not places:
        return
    wanted = [
        (place, held.sequence, name, digest)
        for held in log.held(commit)
        for name, digest in held.files.items()
        for place in places
    ]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda one: _check(checkpoint, *one), wanted))  # raises what a thread has raised


def _check(checkpoint: ObjectStore, place: ObjectStore, sequence: int, name: str, digest: str) -> None:
    try:
        with place.open_read(name) as file:
            found = file_digest(file)
    except FileNotFoundError:
        return
    if found != digest and found not in _attempts(checkpoint, sequence, name):
        raise DamagedCheckpoint(
            f"output file {name} is not what slice {sequence} wrote ({place.url}): put it back from a copy, or "
            "delete it and do without what it held; files that are gone are not missed"
        )


def _attempts(checkpoint: ObjectStore, sequence: int, name: str) -> set[str]:
    """The digests that all attempts at a slice have written down of a file."""
    packs = [pack for pack in checkpoint.names("states/") if pack_sequence(pack) == sequence]
    reader = PackReader(checkpoint)
    return {reader.record(pack).get("files", {}).get(name, "") for pack in packs}
