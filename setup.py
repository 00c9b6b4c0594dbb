"""A shim for Beam's ``--setup_file ./setup.py``, which builds the package on remote workers; see ``pyproject.toml``."""

from setuptools import setup

setup()
