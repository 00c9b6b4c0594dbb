"""How a running job is asked to stop."""

import logging
import signal
from types import FrameType

from grpo_tta.pipeline.cli.console import say
from grpo_tta.pipeline.errors import JobError


class StopRequest:
    """The first Ctrl-C or SIGTERM lets the running slice commit; the second drops it at once.

    The second interrupts whatever runs. A runner may make an error of its own of that: such a `JobError` leaves here as
    the KeyboardInterrupt it was.
    """

    def __init__(self) -> None:
        self._asked = self._dropped = False

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._dropped and isinstance(error, JobError):
            raise KeyboardInterrupt from error

    def __call__(self) -> bool:
        """Whether it was asked."""
        return self._asked

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            self._dropped = True
            raise KeyboardInterrupt
        self._asked = True
        say("stopping after this slice; once more to drop it", logging.WARNING)
