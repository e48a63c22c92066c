"""Escaped text and elements, for charts that are drawn in Python."""

from __future__ import annotations

import re
from collections.abc import Iterable

import markupsafe
from markupsafe import Markup

_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")


def clean(value: object) -> object:
    """``value`` as text in which replacement characters stand for control characters and lone surrogates.

    Those may not be in a page. Markup is returned unchanged.
    """
    if hasattr(value, "__html__"):
        return value
    return _ILLEGAL.sub("\ufffd", str(value).encode("utf-8", "replace").decode("utf-8"))


def escape(value: object) -> Markup:
    """``value`` as text without markup; :class:`markupsafe.Markup` is returned unchanged."""
    return markupsafe.escape(clean(value))


def join(parts: Iterable[object]) -> Markup:
    """Several pieces, each escaped unless it is markup."""
    return Markup("").join(escape(part) for part in parts)


def element(tag: str, /, *children: object, **attributes: object) -> Markup:
    """``<tag attribute="...">children</tag>``, everything escaped.

    Args:
        tag: its name.
        *children: text or markup.
        **attributes: ``class_`` is ``class``, other underscores become hyphens; None is left out.
    """
    pairs = (
        f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{tag}{''.join(pairs)}>{join(children)}</{tag}>")
