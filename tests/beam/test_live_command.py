"""``python -m grpo_tta.beam.live``, where it cannot begin: one line that says why, and exit code 2."""

import subprocess
import sys
from pathlib import Path

import pytest

from demo.broker.quorum import free_ports
from grpo_tta.beam import live


def line(folder: Path, *words: str) -> list[str]:
    places = ("--source", "kafka://127.0.0.1:1/images", "--out", str(folder), "--states", str(folder))
    return [*places, *words]


def test_a_job_server_that_does_not_answer_is_said_in_a_line_and_nothing_else(tmp_path: Path) -> None:
    """No traceback, and nothing of what Beam says when it is imported or when it stages."""
    (port,) = free_ports(1)
    words = line(tmp_path, "--", "--runner=PortableRunner", f"--job_endpoint=localhost:{port}")
    command = [sys.executable, "-m", "grpo_tta.beam.live", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert f"bad configuration: --job_endpoint=localhost:{port}: no job server answers" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_reason_of_a_failed_job_is_short() -> None:
    """Prism adds its own stack to a worker that is gone; a worker that raises has the error in its last line."""
    stack = "Pipeline job-1 failed in state FAILED: panic: send on closed channel\n\tgoroutine 53\n\terrgroup.go:78\n"
    assert live.reason(stack) == "Pipeline job-1 failed in state FAILED: panic: send on closed channel"
    raised = "bundle 1 failed:Traceback (most recent call last):\n  File 'a', line 1\nValueError: no model\n"
    assert live.reason(raised) == "bundle 1 failed:Traceback (most recent call last): ... ValueError: no model"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--give-up-after", "5x"), "--give-up-after: a duration is"),
        (("--source", "photos"), "a Kafka address begins with kafka://, got 'photos'"),
        (("--config", "/nowhere.yaml"), "/nowhere.yaml"),
        ((), "DirectRunner is not supported for a topic without an end: it is Beam's default"),
        (("--", "--runner=FnApiRunner"), "FnApiRunner is not supported for a topic without an end"),
    ],
)
def test_what_is_wrong_with_the_line_is_said(
    words: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(live, "set_up", lambda **_: None)  # the log of the tests stays theirs
    assert live.main(line(tmp_path, *words)) == 2
    said = capsys.readouterr().err
    assert said.startswith("bad configuration: ")
    assert message in said
