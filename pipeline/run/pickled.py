"""A step that is carried past processes that only hand it on. This module imports nothing of the job."""

import pickle
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Pickled:
    """Called, it is unpickled: a Dask scheduler unpickles what its workers run, and would import torch for it."""

    step: bytes

    def __call__(self, element: Any) -> Any:
        """Of the step."""
        return pickle.loads(self.step)(element)
