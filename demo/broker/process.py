"""One child process that can be stopped, killed and paused, and that never outlives the one who started it.

It runs in a session of its own, so that Ctrl-C reaches the caller alone. A watchdog, a shell that reads from a pipe
of ours, kills it when the pipe closes without a word: that happens however this process ends. (A death signal asked
for from the kernel would come when the *thread* ends that started the child.)
"""

import os
import signal
import subprocess
from pathlib import Path

_WATCHDOG = 'read -r word; test -n "$word" || kill -9 "$1"'


class ChildProcess:
    """``command`` running with its output appended to ``log``. Signals go to the process id, never to a name."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._log = log
        self._log_start = log.stat().st_size if log.exists() else 0
        with open(log, "ab") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        watchdog = ["/bin/sh", "-c", _WATCHDOG, "sh", str(self._process.pid)]
        try:
            self._watchdog = subprocess.Popen(watchdog, stdin=subprocess.PIPE, start_new_session=True)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    @property
    def pid(self) -> int:
        """The id of the process, still valid when it is no more."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs; a paused process does."""
        if self._process.poll() is None:
            return True
        self._disarm()
        return False

    def said(self) -> str:
        """Its output."""
        with open(self._log, "rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")

    def terminate(self, seconds: float) -> int:
        """Ask it to end (SIGTERM), also when it is paused; kill it after ``seconds``. Its exit code."""
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
        return self._ended()

    def kill(self) -> int:
        """End it at once (SIGKILL), also when it is paused. Its exit code."""
        self._process.kill()
        return self._ended()

    def pause(self) -> None:
        """Halt it (SIGSTOP): connections stay, nobody answers."""
        os.kill(self._running(), signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        os.kill(self._running(), signal.SIGCONT)

    def _running(self) -> int:
        if not self.alive:
            raise ProcessLookupError(f"process {self.pid} has ended with code {self._process.returncode}")
        return self.pid

    def _ended(self) -> int:
        code = self._process.wait()
        self._disarm()
        return code

    def _disarm(self) -> None:
        pipe = self._watchdog.stdin
        if pipe is not None and not pipe.closed:
            self._watchdog.communicate(b"ended\n")
