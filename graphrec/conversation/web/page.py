"""The page as one file, assembled from its markup, style and script."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files


def _read(name: str) -> str:
    return files("graphrec.conversation.web").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_STYLE = _read("page.css")
_SCRIPT = _read("page.js")

PAGE = _read("page.html").replace("/* style */", _STYLE).replace("/* script */", _SCRIPT)
"""The complete page."""

POLICY = "; ".join(
    (
        "default-src 'none'",
        f"script-src {_hash(_SCRIPT)}",
        f"style-src {_hash(_STYLE)}",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""Content security policy of the page: the browser runs this script alone, loads pictures and answers from
this server alone, and does not create markup from text."""
