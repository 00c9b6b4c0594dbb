"""The log, as text and as JSON, and what of others' texts is shown."""

import json
import logging
import sys

import pytest

from grpo_tta.pipeline.cli import main
from grpo_tta.pipeline.cli.columns import print_columns
from grpo_tta.pipeline.cli.logs import JsonLines, TextLines
from grpo_tta.pipeline.printable import printable, printable_lines


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


EVIL = "cam\x1b[2J\x9b31m\r\nERROR forged\u202egpj\u2028x\x07\ud800"


def test_nothing_in_a_name_is_obeyed_by_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    shown = "cam\\x1b[2J\\x9b31m\\x0d\\x0aERROR forged\\u202egpj\\u2028x\\x07\\ud800"
    assert printable(EVIL) == shown
    assert printable("größe 日本 a\\b") == "größe 日本 a\\b"
    assert printable_lines("a\x1b\nb") == "a\\x1b\nb"
    assert TextLines().format(make_record("stream %s", EVIL)) == f"WARNING grpo_tta.pipeline.run.live: stream {shown}"
    line = JsonLines().format(make_record("stream %s", EVIL))
    assert json.loads(line)["message"] == f"stream {EVIL}"
    assert not set(line) & set("\x1b\x9b\r\n\x07\u2028\ud800")
    print_columns([["stream", "n"], [EVIL, "1"]])
    assert capsys.readouterr().out.splitlines()[1] == f"{shown}  1"


@pytest.mark.parametrize("form", [TextLines(), JsonLines()])
def test_no_log_tells_a_secret_of_an_address(form: logging.Formatter) -> None:
    record = make_record("read %s", "https://user:HUNTER2@host/a;s=HUNTER2?X-Amz-Signature=HUNTER2#t=HUNTER2")
    try:
        raise ValueError("at https://host/a?sig=HUNTER2\x1b[2J")
    except ValueError:
        record.exc_info = sys.exc_info()
    said = form.format(record)
    assert "HUNTER2" not in said
    assert "\x1b" not in said
    assert "ValueError: at https://host/a?sig=(hidden)" in said
