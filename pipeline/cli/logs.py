"""Log records as lines of text or JSON, without secrets of addresses and without anything that a terminal would obey.

JSON is an object a line: ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message``, ``error``, ``figures``.
"""

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any

from grpo_tta.adapters.storage.filesystems import redacted_text
from grpo_tta.pipeline.printable import printable, printable_lines

_NOT_ASCII_CONTROL = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class TextLines(logging.Formatter):
    """``LEVEL logger: message``, and a traceback where there is one."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """One line."""
        record.message = printable(redacted_text(record.message))
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:
        """The traceback's lines."""
        return printable_lines(redacted_text(super().formatException(ei)))  # type: ignore[arg-type]


class JsonLines(logging.Formatter):
    """``error`` is there where a record has an exception: its traceback; ``figures`` where it tells of progress."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the message holds."""
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "level": record.levelname,
            "logger": record.name,
            "message": redacted_text(record.getMessage()),
        }
        if record.exc_info:
            line["error"] = redacted_text(self.formatException(record.exc_info))
        if getattr(record, "figures", None):
            line["figures"] = record.figures  # type: ignore[attr-defined]
        text = json.dumps(line, ensure_ascii=False)
        return _NOT_ASCII_CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
