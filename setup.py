"""A shim, so that Beam's ``--setup_file ./setup.py`` can build the package on remote workers; see ``pyproject.toml``."""

from setuptools import setup

setup()
