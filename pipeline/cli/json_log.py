"""Log records as JSON, one object a line: ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message``, ``error``."""

import json
import logging
from datetime import UTC, datetime


class JsonLines(logging.Formatter):
    """``error`` is there where a record has an exception: its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the message holds."""
        moment = datetime.fromtimestamp(record.created, UTC)
        line = {
            "time": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
