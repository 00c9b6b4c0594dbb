"""Frames of video files as events, by PyAV (FFmpeg), the extra ``video``: `listing` and `frames`."""
