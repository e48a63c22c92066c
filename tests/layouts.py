"""What the reader tests share: files written from strings, texts read back."""

from __future__ import annotations

from pathlib import Path

from graphrec.data import Dataset

ALL_TRAIN = {"name": "random", "valid": 0, "test": 0}


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def texts(data: Dataset) -> dict[str, str | None]:
    return dict(zip(data.items.ids, data.content["text"].values, strict=True))
