"""What a case of bad input is, and how its files are made."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest

Maker = Callable[[Path], None]
Files = Mapping[str, str | bytes | Maker]


class Case(NamedTuple):
    """One bad input.

    Attributes:
        name: what is wrong, unique in its table.
        files: name -> content, or what makes the file at its path.
        line: the command line, run where the files are.
        words: the facts that the one line of the answer must contain: file, row, id, offending value.
    """

    name: str
    files: Files
    line: str
    words: tuple[str, ...]


def lay(folder: Path, files: Files) -> None:
    """Writes a case's files."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)


def parametrize(cases: list[Case]) -> pytest.MarkDecorator:
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), "two cases of one name"
    return pytest.mark.parametrize("case", cases, ids=names)


def check_refused(case: Case, folder: Path, refused: Callable[..., str]) -> None:
    """Lays out the files, runs the line, and looks for the words in the error."""
    lay(folder, case.files)
    message = refused(*shlex.split(case.line))
    for word in case.words:
        assert word in message
    assert len(message) <= 2100


def check_accepted(case: Case, folder: Path, graphrec: Callable[..., Any]) -> None:
    """Likewise for input that is usable; the words are among the counts that are printed."""
    lay(folder, case.files)
    answer = graphrec(*shlex.split(case.line))
    assert answer.code == 0, answer.err
    lines = {" ".join(line.split()) for line in answer.out.splitlines()}
    assert set(case.words) <= lines


def table(options: str = "", file: str = "a.csv") -> str:
    """The command that reads the file as a table."""
    return f"data show table --set interactions={file} {options}"


def parquet(frame: pl.DataFrame) -> bytes:
    out = io.BytesIO()
    frame.write_parquet(out)
    return out.getvalue()


def arrow(frame: pl.DataFrame) -> bytes:
    out = io.BytesIO()
    frame.write_ipc(out)
    return out.getvalue()


def jsonl(*rows: Mapping[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def npy(values: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, values, allow_pickle=True)
    return out.getvalue()


def npz(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()
