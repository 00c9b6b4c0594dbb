"""The newest states that this process has written or read, so that a stream that comes again is not fetched again.

A pack is written once under its name, by one plan, so a state of that pack is what was remembered of it; a plan that
runs again writes the pack anew and what is remembered with it. The store stays the only truth: what is not here, or is
of another pack, is read.
"""

import threading
from collections import OrderedDict

MOST_BYTES = 256 * 2**20


class StateCache:
    """Of each stream of a log, by the URL of its store, one encoded state and the pack it is of; at most ``most_bytes``
    of them, those that were used last. For several threads."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = most_bytes
        self._held: OrderedDict[tuple[str, str], tuple[str, bytes]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, url: str, stream: str, pack: str) -> bytes | None:
        """The stream's state in that pack, if it is held."""
        with self._lock:
            held_of, state = self._held.get((url, stream), ("", b""))
            if held_of != pack:
                return None
            self._held.move_to_end((url, stream))
            return state

    def put(self, url: str, stream: str, pack: str, state: bytes) -> None:
        """Hold the stream's state of ``pack`` in place of any other; what was used longest ago makes room."""
        with self._lock:
            _, before = self._held.pop((url, stream), ("", b""))
            self._held[url, stream] = (pack, state)
            self._bytes += len(state) - len(before)
            while self._bytes > self._most:
                _, (_, dropped) = self._held.popitem(last=False)
                self._bytes -= len(dropped)
