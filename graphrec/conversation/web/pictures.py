"""Which files may be shown: pictures of items, inside the pictures' folder, known by their first bytes."""

from __future__ import annotations

from pathlib import Path

from graphrec.conversation.agent import ConversationalRecommender

HEAD = 16
"""Bytes that tell what a file is."""


def picture_file(agent: ConversationalRecommender, item: str) -> Path | None:
    """File of an item's picture; None where it has none, or one outside the pictures' folder.

    Args:
        agent: knows the pictures and their folder.
        item: external id; any text.
    """
    root, name = agent.picture_root, agent.images.get(item)
    if root is None or name is None:
        return None
    try:
        path, inside = (root / name).resolve(), root.resolve()
        return path if path.is_relative_to(inside) and path.is_file() else None
    except (OSError, ValueError):  # names too long, or with a NUL
        return None


def picture_type(path: Path) -> str | None:
    """Media type of a picture that browsers show and that cannot hold scripts; None for any other file."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError:
        return None
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return "image/avif" if head[4:12] in (b"ftypavif", b"ftypavis") else None
