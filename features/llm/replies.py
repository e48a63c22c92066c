"""Replies read strictly: what is not exactly what was asked for is refused, with a reason that is counted.

A title may say anything, and a model may repeat it; nothing in a reply is ever more than data. No index
leaves this module that was not among those given.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

LONGEST = 20_000  # characters of a reply that are worth reading
VALUE, PROFILE = 200, 2_000  # characters of an attribute, and of a profile
FENCE = re.compile(r"\A\s*```[a-zA-Z]*\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)
PAIR = re.compile(r"\A\s*\[?\s*([0-9]{1,6})\s*\]?\s*::\s*\[?\s*([0-9]{1,6})\s*\]?\s*\.?\s*\Z")
MARKUP = re.compile(r"<\s*(?:!doctype|html|head|body|script|div|span|p|br|a|img|iframe)\b", re.IGNORECASE)
UNKNOWN = {"", "unknown", "n/a", "na", "none", "null", "not available", "unspecified", "-", "?"}


class BadReply(Exception):  # noqa: N818 - it is a reason, not an error of anybody's program
    """A reply that is not what was asked for; the text is the reason, one of a few."""


def pair(text: str, n: int) -> tuple[int, int]:
    """Two different numbers out of ``1..n``, favorite first: ``3::7`` or ``{"favorite": 3, "least": 7}``.

    Returns:
        both, counted from 0.

    Raises:
        BadReply: it is anything else.
    """
    text = _readable(text)
    found = PAIR.match(text)
    if found:
        numbers: list[Any] = [int(found[1]), int(found[2])]
    else:
        body = _object(text, "no pair")
        numbers = [body.get("favorite"), body.get("least")]
        if any(type(number) is not int for number in numbers):
            raise BadReply("no pair")
    if not all(1 <= number <= n for number in numbers):
        raise BadReply("outside the candidates")
    if numbers[0] == numbers[1]:
        raise BadReply("the same twice")
    return numbers[0] - 1, numbers[1] - 1


def attributes(text: str, names: Sequence[str]) -> dict[str, str | None]:
    """One text for each name: an object with these keys, or values between ``::`` in their order; None where
    it is said not to be known.

    Raises:
        BadReply: it is anything else.
    """
    text = _readable(text)
    if "{" in text:
        body = _object(text, "no attributes")
        if not set(names) <= set(body):
            raise BadReply("attributes are missing")
        values = [body[name] for name in names]
    else:
        lines = [line for line in text.splitlines() if line.strip()]
        values = lines[0].split("::") if len(lines) == 1 else []
        if len(values) != len(names):
            raise BadReply("no attributes")
    return {name: _value(value) for name, value in zip(names, values, strict=True)}


def profile(text: str) -> str:
    """A profile as one line of text: what stands in an object as ``key: value``, or the text as it is.

    Raises:
        BadReply: there is none, or it is no plain text.
    """
    text = _readable(text)
    if text.lstrip().startswith("{"):
        parts = []
        for key, value in _object(text, "no profile").items():
            value = ", ".join(map(str, value)) if isinstance(value, list) else value
            if isinstance(value, dict):
                raise BadReply("no profile")
            parts.append(f"{key}: {value}")
        text = "; ".join(parts)
    text = _plain(text)
    if len(text) > PROFILE:
        raise BadReply("too long")
    if not any(c.isalpha() for c in text):
        raise BadReply("no profile")
    return text


def _readable(text: str) -> str:
    """The reply without a fence around it."""
    if len(text) > LONGEST:
        raise BadReply("too long")
    if not text.strip():
        raise BadReply("empty")
    if MARKUP.search(text):
        raise BadReply("markup")
    found = FENCE.match(text)
    return found[1] if found else text


def _object(text: str, otherwise: str) -> dict[str, Any]:
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as cause:
        raise BadReply(otherwise) from cause
    if not isinstance(body, dict):
        raise BadReply(otherwise)
    return body


def _value(value: Any) -> str | None:
    """An attribute as one line, None for what is not known."""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = ", ".join(value)
    if value is None or isinstance(value, bool | dict | list):
        if value is None:
            return None
        raise BadReply("no attributes")
    text = _plain(str(value))
    if len(text) > VALUE:
        raise BadReply("too long")
    return None if text.lower() in UNKNOWN else text


def _plain(text: str) -> str:
    """One line without control characters or halves of characters."""
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
