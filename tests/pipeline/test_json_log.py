"""The log as JSON, one object a line."""

import json
import logging
import sys

import pytest

from grpo_tta.pipeline.cli import main
from grpo_tta.pipeline.cli.json_log import JsonLines


def make_record(message: str, *values: object, error: bool = False) -> logging.LogRecord:
    record = logging.LogRecord("grpo_tta.pipeline.run.live", logging.WARNING, "f.py", 1, message, values, None)
    record.created = 1767225600.25
    if error:
        try:
            raise ValueError("of this\nand that")
        except ValueError:
            record.exc_info = sys.exc_info()
    return record


def test_a_record_is_one_line_whatever_it_says():
    line = JsonLines().format(make_record("partition %s:\n%s", "images-0", 'a "quote", ü'))
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2026-01-01T00:00:00.250000Z",
        "level": "WARNING",
        "logger": "grpo_tta.pipeline.run.live",
        "message": 'partition images-0:\na "quote", ü',
    }


def test_an_exception_goes_along():
    line = JsonLines().format(make_record("failed", error=True))
    assert "\n" not in line
    assert json.loads(line)["error"].endswith("ValueError: of this\nand that")


@pytest.mark.parametrize(("flags", "is_json"), [(["--log-format", "json"], True), ([], False)])
def test_the_command_line_chooses_the_form(
    flags: list[str], is_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    assert main([*flags, "version"]) == 0
    logging.getLogger("grpo_tta.pipeline.run.live").info("owned in epoch %d", 3)
    (line,) = capsys.readouterr().err.splitlines()
    if is_json:
        assert json.loads(line)["message"] == "owned in epoch 3"
    else:
        assert line == "INFO grpo_tta.pipeline.run.live: owned in epoch 3"
