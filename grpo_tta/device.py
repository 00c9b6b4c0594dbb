"""Where tensors live: the choice of a device, mixed precision and the C allocator.

The only module that knows of CUDA. Everything else is handed a ``torch.device``.
"""

import ctypes
import sys
from contextlib import AbstractContextManager, nullcontext

import torch

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST = 1 << 30


def resolve_device(name: str) -> torch.device:
    """``auto`` (CUDA where torch sees it, else CPU), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises ``ValueError`` for another name, and for CUDA where there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {name!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} asked for, but torch sees no CUDA device: use 'cpu' or 'auto'")
    if kind == "cuda" and number and int(number) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} asked for, but torch sees {torch.cuda.device_count()} CUDA device(s)")
    return torch.device(name)


def autocast(device: torch.device, enabled: bool) -> AbstractContextManager[object]:
    """bfloat16 mixed precision (no loss scaling needed) where ``enabled``, else a context that does nothing."""
    return torch.autocast(device.type, torch.bfloat16) if enabled else nullcontext()


def keep_freed_memory() -> bool:
    """Tell glibc to keep large freed blocks instead of handing them back to the kernel.

    Half of a CPU run can be page faults of torch's temporaries. Process-wide, so the program decides, not this library:
    call it once at the start, before large tensors are made. Returns whether the C library took it (Linux with glibc).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_M_TRIM_THRESHOLD, _LARGEST))
