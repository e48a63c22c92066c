"""File formats: one version a kind, earlier versions migrated, later ones and other kinds refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from graphrec.core.bundle import Committed, FileFormat, commit, read_sealed, write_sealed
from graphrec.core.errors import CheckpointError, DataError
from graphrec.core.files import write_bytes


def renamed(content: dict[str, Any]) -> dict[str, Any]:
    content["present"] = content.pop("former")
    return content


def doubled(content: dict[str, Any]) -> dict[str, Any]:
    return {**content, "present": 2 * content["present"]}


THIRD = FileFormat("thing", 3, {1: renamed, 2: doubled})


def test_every_earlier_version_is_migrated_step_by_step(tmp_path: Path) -> None:
    path = tmp_path / "thing.json"
    for content in ({"format": 1, "former": 5}, {"format": 2, "present": 5}, {**THIRD.header, "present": 10}):
        write_sealed(path, content)
        assert read_sealed(path, "save it again", THIRD) == {**THIRD.header, "present": 10}
    write_sealed(path, {**FileFormat("thing", 2).header, "present": 1})
    assert read_sealed(path, "", THIRD) == {"format": {"kind": "thing", "version": 3}, "present": 2}


@pytest.mark.parametrize("found", [0, 4, 99, None, "3", True, 2.0, [3], {"kind": "thing", "version": "3"}])
def test_another_version_is_refused_with_the_versions_that_are_read(found: object) -> None:
    with pytest.raises(DataError) as raised:
        THIRD.read({"format": found, "present": 1}, "folder/thing.json", "save it again", DataError)
    message = str(raised.value)
    for fact in (
        "folder/thing.json",
        repr(found["version"] if isinstance(found, dict) else found),
        "thing",
        "1 to 3",
        "save it again",
    ):
        assert fact in message
    assert ("later version" in message and "upgrade graphrec" in message) == (found in (4, 99))


@pytest.mark.parametrize("content", [None, [], "text", 3])
def test_what_is_no_object_is_refused(content: object) -> None:
    with pytest.raises(CheckpointError, match=type(content).__name__):
        THIRD.read(content, "thing.json", "save it again")


def test_another_kind_is_refused(tmp_path: Path) -> None:
    write_sealed(tmp_path / "x.json", FileFormat("other", 3).header)
    with pytest.raises(CheckpointError, match=r"x\.json.*other.*thing"):
        read_sealed(tmp_path / "x.json", "", THIRD)


def test_a_directory_of_an_earlier_version_opens(tmp_path: Path) -> None:
    def writer(path: Path) -> str:
        write_bytes(path, b"bytes")
        return "277089d91c0bdf4f2e6862ba7e4a07605119431f5d13f726dd352b06f1b206a9"  # sha256 of b"bytes"

    def migrated(content: dict[str, Any]) -> dict[str, Any]:
        return {**content, "head": {**content["head"], "n": 1 + content["head"]["m"]}}

    commit(tmp_path / "x.json", FileFormat("x"), {"m": 1}, {"part": ("0" * 16, "npy", writer)}, "again")
    opened = Committed(tmp_path / "x.json", FileFormat("x", 2, {1: migrated}), "save it again")
    assert opened.head == {"m": 1, "n": 2}
    assert opened.file("part").read_bytes() == b"bytes"
    with pytest.raises(CheckpointError, match="format 1"):
        Committed(tmp_path / "x.json", FileFormat("x", 2), "save it again")
