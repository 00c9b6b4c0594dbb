"""One of several processes that create the same objects at the same moments. Imports little, for it is spawned."""

import os
from typing import Any

from grpo_tta.adapters.storage.objects import ObjectStore


def race(url: str, names: list[str], barrier: Any, found: Any) -> None:
    """Puts (name, token, whether it was created) into the queue ``found`` for each name."""
    store = ObjectStore(url)
    assert store.supports_exclusive_create
    token = f"{os.getpid()}".encode()
    for name in names:
        barrier.wait(60)
        found.put((name, token, store.create(name, token * 2000)))
