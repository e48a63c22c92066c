"""Files that the page may show: pictures inside the picture folder, recognized by their first bytes."""

from __future__ import annotations

from pathlib import Path

from graphrec.conversation.agent import ConversationalRecommender

HEADER_SIZE = 16
"""Number of bytes that identify a file's type."""


def picture_file(agent: ConversationalRecommender, item: str) -> Path | None:
    """File of an item's picture; None if there is none, or it lies outside the picture folder.

    Args:
        agent: the agent with the pictures.
        item: external id, unchecked.
    """
    root = agent.picture_root
    name = agent.images.get(item)
    if root is None or name is None:
        return None
    try:
        path = (root / name).resolve()
        return path if path.is_relative_to(root.resolve()) and path.is_file() else None
    except (OSError, ValueError):  # names too long, or with a NUL
        return None


def picture_type(path: Path) -> str | None:
    """Media type of a picture that browsers show and that cannot contain scripts; None for other files."""
    try:
        with path.open("rb") as file:
            header = file.read(HEADER_SIZE)
    except OSError:
        return None
    if header.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if header.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if header.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if header[:4] == b"RIFF" and header[8:12] == b"WEBP":
        return "image/webp"
    return "image/avif" if header[4:12] in (b"ftypavif", b"ftypavis") else None
