"""Parses replies strictly: anything other than the requested form is rejected with a countable reason.

A title may contain any text and the model may repeat it, so replies are treated as data only. The functions
return only indices of candidates that were offered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

MAX_REPLY = 20_000  # characters; longer replies are rejected
MAX_VALUE = 200  # characters of an attribute value
MAX_PROFILE = 2_000  # characters of a profile
FENCE = re.compile(r"\A\s*```[a-zA-Z]*\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)
PAIR = re.compile(r"\A\s*\[?\s*([0-9]{1,6})\s*\]?\s*::\s*\[?\s*([0-9]{1,6})\s*\]?\s*\.?\s*\Z")
MARKUP = re.compile(r"<\s*(?:!doctype|html|head|body|script|div|span|p|br|a|img|iframe)\b", re.IGNORECASE)
UNKNOWN = {"", "unknown", "n/a", "na", "none", "null", "not available", "unspecified", "-", "?"}


class InvalidReplyError(Exception):
    """A reply that does not have the requested form; the message is one of a few fixed reasons."""


def parse_pair(text: str, n: int) -> tuple[int, int]:
    """Parses two different numbers in ``1..n``: ``3::7`` or ``{"favorite": 3, "least": 7}``.

    Returns:
        The favorite and the least liked candidate, counted from 0.

    Raises:
        InvalidReplyError: the reply has another form.
    """
    text = _unfenced(text)
    match = PAIR.match(text)
    if match:
        numbers: list[Any] = [int(match[1]), int(match[2])]
    else:
        body = _parse_object(text, "no pair")
        numbers = [body.get("favorite"), body.get("least")]
        if any(type(number) is not int for number in numbers):
            raise InvalidReplyError("no pair")
    if not all(1 <= number <= n for number in numbers):
        raise InvalidReplyError("outside the candidates")
    if numbers[0] == numbers[1]:
        raise InvalidReplyError("the same twice")
    return numbers[0] - 1, numbers[1] - 1


def parse_attributes(text: str, names: Sequence[str]) -> dict[str, str | None]:
    """Parses one text per attribute: a JSON object with these keys, or the values in order between ``::``.

    Returns:
        Attribute name -> value, None where the reply says that it is unknown.

    Raises:
        InvalidReplyError: the reply has another form.
    """
    text = _unfenced(text)
    if "{" in text:
        body = _parse_object(text, "no attributes")
        if not set(names) <= set(body):
            raise InvalidReplyError("attributes are missing")
        values = [body[name] for name in names]
    else:
        lines = [line for line in text.splitlines() if line.strip()]
        values = lines[0].split("::") if len(lines) == 1 else []
        if len(values) != len(names):
            raise InvalidReplyError("no attributes")
    return {name: _parse_value(value) for name, value in zip(names, values, strict=True)}


def parse_profile(text: str) -> str:
    """Parses a profile into one line of text: a JSON object becomes ``key: value`` parts, plain text stays.

    Raises:
        InvalidReplyError: the reply is empty, too long, or not plain text.
    """
    text = _unfenced(text)
    if text.lstrip().startswith("{"):
        parts = []
        for key, value in _parse_object(text, "no profile").items():
            value = ", ".join(map(str, value)) if isinstance(value, list) else value
            if isinstance(value, dict):
                raise InvalidReplyError("no profile")
            parts.append(f"{key}: {value}")
        text = "; ".join(parts)
    text = _one_line(text)
    if len(text) > MAX_PROFILE:
        raise InvalidReplyError("too long")
    if not any(c.isalpha() for c in text):
        raise InvalidReplyError("no profile")
    return text


def _unfenced(text: str) -> str:
    """The reply without a Markdown code fence around it."""
    if len(text) > MAX_REPLY:
        raise InvalidReplyError("too long")
    if not text.strip():
        raise InvalidReplyError("empty")
    if MARKUP.search(text):
        raise InvalidReplyError("markup")
    match = FENCE.match(text)
    return match[1] if match else text


def _parse_object(text: str, otherwise: str) -> dict[str, Any]:
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as cause:
        raise InvalidReplyError(otherwise) from cause
    if not isinstance(body, dict):
        raise InvalidReplyError(otherwise)
    return body


def _parse_value(value: Any) -> str | None:
    """An attribute value as one line, None where it is unknown."""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        value = ", ".join(value)
    if value is None:
        return None
    if isinstance(value, bool | dict | list):
        raise InvalidReplyError("no attributes")
    text = _one_line(str(value))
    if len(text) > MAX_VALUE:
        raise InvalidReplyError("too long")
    return None if text.lower() in UNKNOWN else text


def _one_line(text: str) -> str:
    """The text on one line, without control characters or lone surrogates."""
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
