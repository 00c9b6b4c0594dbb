"""`Entry`, a file that a listing has found, and the records made of it or of what lies in it."""

from typing import BinaryIO, NamedTuple

from grpo_tta.adapters.events import BadRecord, ImageRef
from grpo_tta.adapters.storage.fetch import PermanentFetchError, open_file, permanent_error
from grpo_tta.adapters.storage.policy import ForbiddenUri, UriPolicy
from grpo_tta.schemas.base import encodable
from grpo_tta.schemas.events import MAX_ID, MAX_STREAM, MAX_URI


class Entry(NamedTuple):
    """``relative``: its path below the source's root. ``size``: -1 if unknown; ``modified``: microseconds since the
    epoch, None where the storage does not tell."""

    path: str
    relative: str
    version: str
    size: int
    modified: int | None
    error: OSError | None = None
    """Why it cannot be looked at; of a folder too, whose path then ends in a slash."""

    def event(
        self,
        stream: str,
        time: int,
        *,
        guessed: str = "",
        id: str | None = None,
        fragment: str = "",
        size: int | None = None,
        attributes: tuple[tuple[str, str], ...] = (),
    ) -> ImageRef:
        """An event of the file, or of what lies in it at ``fragment``. Raises ValueError for a text that no record
        can hold."""
        name = self.relative if id is None else id
        coordinate = f"{self.path}@{self.version}{fragment}"
        coordinate.encode()
        name.encode()
        for what, value, limit in (("id", name, MAX_ID), ("stream", stream, MAX_STREAM)):
            if len(value) > limit:
                raise ValueError(f"the {what} has {len(value)} characters, the limit is {limit}")
        uri = self.path + fragment
        if len(uri) > MAX_URI:
            raise ValueError(f"the path has {len(uri)} characters, the limit is {MAX_URI}")
        size = self.size if size is None else size
        return ImageRef(coordinate, name, stream, time, uri=uri, size=size, attributes=attributes, guessed=guessed)

    def bad(
        self, kind: str, message: str, *, fragment: str = "", stage: str = "source", id: str | None = None
    ) -> BadRecord:
        """What is no event; ``id`` names what lies in the file."""
        path = encodable(self.path)
        shown = path if id is None else f"{path}: {encodable(id)}"
        return BadRecord(f"{path}@{self.version}{fragment}", stage, kind, encodable(message), shown[:MAX_URI])

    def refused(self, error: Exception, *, fragment: str = "", id: str | None = None) -> BadRecord:
        """What `event`, or a name's pattern, raised."""
        message = "the file's name is not UTF-8" if isinstance(error, UnicodeEncodeError) else str(error)
        return self.bad(type(error).__name__, message, fragment=fragment, id=id)

    def open(self, policy: UriPolicy) -> "BinaryIO | BadRecord":
        """The file, or why it will never be read. Raises what may pass."""
        try:
            return open_file(policy.check(self.path))
        except ForbiddenUri as error:
            return self.bad("ForbiddenByPolicy", str(error), stage="policy")
        except PermanentFetchError as error:
            return self.bad(type(error).__name__, str(error), stage=error.stage)
        except OSError as error:
            kind = permanent_error(error)
            if kind is None:
                raise
            return self.bad(kind.__name__, error.strerror or str(error), stage=kind.stage)
