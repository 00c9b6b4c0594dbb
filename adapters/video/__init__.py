"""Frames of video files as events, by PyAV (FFmpeg), the extra ``grpo-tta[video]``: `listing` and `frames`."""
