import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest


@pytest.fixture
def memory_url() -> Iterator[str]:
    """A root of its own in fsspec's memory file system."""
    name = uuid4().hex
    yield f"memory://{name}"
    filesystem = fsspec.filesystem("memory")
    if filesystem.exists(name):
        filesystem.rm(name, recursive=True)


@pytest.fixture
def touch() -> Callable[..., Path]:
    """Write a file with a modification time: ``touch(path, b"..", "2026-01-01T00:00:00")``."""

    def make(path: Path, data: bytes = b"x", time: str = "2026-01-01T00:00:00") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        seconds = datetime.fromisoformat(time).replace(tzinfo=UTC).timestamp()
        os.utime(path, (seconds, seconds))
        return path

    return make
