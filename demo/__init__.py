"""Rebuild the packaged demo model and its pictures from open packages; not installed, not needed to run anything."""
