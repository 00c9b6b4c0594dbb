"""States that this process has written or read, by their place; a stream that comes again is not fetched again.

A pack is written once under its name, by one plan, so a state in it is what was remembered of it; a plan that runs
again writes the pack anew and what is remembered with it. The store stays the only truth: what is not here is read.
"""

import threading
from collections import OrderedDict

Place = tuple[str, str, str]
"""URL of the log's store, name of the pack, stream."""
MOST_BYTES = 256 * 2**20


class StateCache:
    """At most ``most_bytes`` of encoded states, those that were used last; for several threads."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = most_bytes
        self._held: OrderedDict[Place, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, place: Place) -> bytes | None:
        """What was put there, if it is still held."""
        with self._lock:
            if place in self._held:
                self._held.move_to_end(place)
            return self._held.get(place)

    def put(self, place: Place, state: bytes) -> None:
        """Hold ``state``; what was used longest ago makes room."""
        with self._lock:
            self._bytes += len(state) - len(self._held.pop(place, b""))
            self._held[place] = state
            while self._bytes > self._most:
                self._bytes -= len(self._held.popitem(last=False)[1])
