"""One self-contained HTML file from data and the scripts beside this module.

The data travel deflated in base64 and no text of them is ever part of the HTML: the scripts make every element and put
texts in as texts, in one place (``assets/dom.js``), so that no name of a stream, label or file can be markup. The
content security policy allows this page's own script and style, by their hashes, and pictures that it holds: nothing is
loaded, sent or evaluated.
"""

import base64
import hashlib
import json
import zlib
from importlib.resources import files
from typing import Any

_ASSETS = files("grpo_tta.pipeline.report") / "assets"
REPORT = ("dom.js", "overview.js", "charts.js", "stream.js", "evaluation.js", "main.js")
ASK = ("dom.js", "ask.js")
_HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>grpo-tta report</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<header><div class="wrap"></div></header>
<div class="wrap"><main id="main"></main></div>
<footer><div class="wrap"></div></footer>
<noscript><p class="wrap">This report needs JavaScript. It loads nothing and sends nothing.</p></noscript>
<script type="application/octet-stream" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


def report_page(data: dict[str, Any]) -> bytes:
    """The page of a report."""
    return _page(data, (_text("uplot.min.js"), _wrapped(REPORT)), ("uplot.min.css", "page.css"))


def ask_page(data: dict[str, Any]) -> bytes:
    """The page that asks for answers."""
    return _page(data, (_wrapped(ASK),), ("page.css", "ask.css"))


def _page(data: dict[str, Any], scripts: tuple[str, ...], styles: tuple[str, ...]) -> bytes:
    script = "\n".join(scripts)
    style = "\n".join(map(_text, styles))
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    html = _HTML.format(policy=policy, style=style, script=script, data=pack(data))
    return html.encode()


def pack(data: dict[str, Any]) -> str:
    """As the page's script unpacks it."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def unpack(html: bytes) -> dict[str, Any]:
    """The data of a page."""
    packed = html.partition(b'id="data">')[2].partition(b"</script>")[0]
    return dict(json.loads(zlib.decompress(base64.b64decode(packed))))


def _text(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8").strip()


def _wrapped(names: tuple[str, ...]) -> str:
    return "(() => {\n" + "\n".join(map(_text, names)) + "\n})();"


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
