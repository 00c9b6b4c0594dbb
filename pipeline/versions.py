"""Versions of what a label may depend on; looking them up imports none of it."""

import platform
from importlib.metadata import version


def versions() -> dict[str, str]:
    """By name, this package's first."""
    packages = {"torch": "torch", "open_clip": "open_clip_torch", "beam": "apache-beam"}
    found = {name: version(package) for name, package in packages.items()}
    return {"grpo_tta": version("grpo-tta"), "python": platform.python_version(), **found}
