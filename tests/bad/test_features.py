"""Ready-made vectors that do not fit, through ``graphrec features import`` and in Python."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphrec.core.errors import FeatureError
from graphrec.data import Dataset, Interactions, Vocabulary
from graphrec.features import FeatureStore, FeatureTable

N = 6
GOOD = np.arange(1, 1 + N * 3, dtype=np.float32).reshape(N, 3)


def shop() -> Dataset:
    none, pairs = (Interactions(np.arange(m), np.arange(m), N, N) for m in (0, N))
    users, items = (Vocabulary((f"{kind}{i}" for i in range(N)), kind) for kind in ("user", "item"))
    return Dataset("shop", users, items, pairs, none, none)


def with_value(value: float, dtype: Any = np.float32) -> np.ndarray:
    array = GOOD.astype(dtype)
    array[4, 1] = value
    return array


def npy(array: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, image=GOOD)
    return file.getvalue()


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("image.csv", "1,2")
    return file.getvalue()


def pickled() -> bytes:
    return npy(np.array([["a", 1.0, None]] * N, dtype=object), allow_pickle=True)


def header(text: str) -> bytes:
    """A file whose header says this and which has 72 bytes of numbers."""
    padded = text.encode() + b" " * (-len(text) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + bytes(72)


# A file, and the fact that the error holds beside the file's name.
FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "too few rows": (lambda: npy(GOOD[:5]), "5 rows, shop has 6 items"),
    "too many rows": (lambda: npy(np.vstack([GOOD, GOOD])), "12 rows, shop has 6 items"),
    "no rows": (lambda: npy(GOOD[:0]), "0 rows, shop has 6 items"),
    "NaN": (lambda: npy(with_value(np.nan)), "row 4 (item 'item4')"),
    "Inf": (lambda: npy(with_value(np.inf)), "row 4 (item 'item4')"),
    "beyond float32": (lambda: npy(with_value(-1e300, np.float64)), "row 4 (item 'item4')"),
    "integers": (lambda: npy(GOOD.astype(np.int64)), "(6, 3), int64"),
    "bytes": (lambda: npy(GOOD.astype(np.uint8)), "uint8"),
    "booleans": (lambda: npy(GOOD > 3), "bool"),
    "complex": (lambda: npy(GOOD.astype(np.complex64)), "complex64"),
    "texts": (lambda: npy(GOOD.astype("U8")), "<U8"),
    "dates": (lambda: npy(GOOD.astype(np.int64).astype("M8[s]")), "datetime64[s]"),
    "records": (lambda: npy(np.zeros(N, dtype=[("a", "f4"), ("b", "f4")])), "shape (6,)"),
    "one axis": (lambda: npy(GOOD.ravel()), "shape (18,), float32"),
    "no axis": (lambda: npy(np.float32(1)), "shape (), float32"),
    "three axes": (lambda: npy(GOOD.reshape(N, 3, 1)), "shape (6, 3, 1), float32"),
    "no columns": (lambda: npy(np.zeros((N, 0), np.float32)), "shape (6, 0), float32"),
    "objects": (pickled, ".npy"),
    "empty file": (lambda: b"", ".npy"),
    "magic alone": (lambda: npy(GOOD)[:6], ".npy"),
    "cut in the header": (lambda: npy(GOOD)[:40], ".npy"),
    "cut in the numbers": (lambda: npy(GOOD)[:-1], ".npy"),
    "cut after the header": (lambda: npy(GOOD)[:128], ".npy"),
    "archive of arrays": (npz, ".npz"),
    "archive of something": (zipped, "features.npy"),
    "csv": (lambda: b"1.0,2.0,3.0\n" * N, ".npy"),
    "JSON": (lambda: b'{"shape": [6, 3]}', ".npy"),
    "zeros": (lambda: bytes(500), ".npy"),
    "huge shape": (
        lambda: header("{'descr': '<f4', 'fortran_order': False, 'shape': (6, 1000000000000000000)}"),
        ".npy",
    ),
    "negative shape": (
        lambda: header("{'descr': '<f4', 'fortran_order': False, 'shape': (-6, 3)}"), "features.npy"
    ),
    "header that is code": (lambda: header("__import__('os').getcwd()"), ".npy"),
    "header without an end": (lambda: header("{'descr': '<f4', ((((("), ".npy"),
    "unknown type": (
        lambda: header("{'descr': 'wrong', 'fortran_order': False, 'shape': (6, 3)}"), ".npy"
    ),
    "version 9": (lambda: b"\x93NUMPY\x09" + npy(GOOD)[7:], ".npy"),
}  # fmt: skip


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    shop().save(tmp_path / "saved")
    return tmp_path


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning:numpy")  # a huge shape
@pytest.mark.parametrize("case", FILES)
def test_a_file_that_does_not_fit_is_refused(case: str, saved: Path, refused: Callable[..., str]) -> None:
    make, expected = FILES[case]
    (saved / "features.npy").write_bytes(make())
    error = refused("features", "import", "saved", "image", "features.npy")
    assert "features.npy" in error
    assert expected in error
    assert not list(saved.glob("cache/*/*/manifest.json"))


@pytest.mark.parametrize("case", ["missing", "directory", "pipe"])
def test_a_place_without_a_file_is_refused(case: str, saved: Path, refused: Callable[..., str]) -> None:
    if case == "directory":
        (saved / "features.npy").mkdir()
    elif case == "pipe":
        os.mkfifo(saved / "features.npy")
    assert "features.npy: " in refused("features", "import", "saved", "image", "features.npy")


# Ids of the rows, and the fact that the error holds; GOOD has six rows.
IDS: dict[str, tuple[str, str]] = {
    "one too few": ("item0\nitem1\nitem2\nitem3\nitem4\n", "5 ids for 6 rows"),
    "one too many": ("".join(f"item{i}\n" for i in range(7)), "7 ids for 6 rows"),
    "twice": ("item0\nitem1\nitem2\nitem3\nitem4\nitem0\n", "item id 'item0'"),
    "unknown": ("a\nb\nc\nd\ne\nf\n", "['a', 'b', 'c']"),
    "of users": ("".join(f"user{i}\n" for i in range(6)), "['user0', 'user1', 'user2']"),
    "row numbers": ("0\n1\n2\n3\n4\n5\n", "0 of 6 ids"),
    "other case": ("".join(f"ITEM{i}\n" for i in range(6)), "0 of 6 ids"),
    "none": ("\n\n", "ids.txt"),
}


@pytest.mark.parametrize("case", IDS)
def test_ids_that_do_not_fit_are_refused(case: str, saved: Path, refused: Callable[..., str]) -> None:
    text, expected = IDS[case]
    (saved / "features.npy").write_bytes(npy(GOOD))
    (saved / "ids.txt").write_text(text)
    assert expected in refused("features", "import", "saved", "image", "features.npy", "--ids", "ids.txt")


FITTING: dict[str, Callable[[], Any]] = {
    "float32": lambda: GOOD,
    "float16": lambda: GOOD.astype(np.float16),
    "float64": lambda: GOOD.astype(np.float64),
    "long double": lambda: GOOD.astype(np.longdouble),
    "big-endian": lambda: GOOD.astype(">f4"),
    "big-endian float16": lambda: GOOD.astype(">f2"),
    "columns first": lambda: np.asfortranarray(GOOD),
    "every second row": lambda: np.repeat(GOOD, 2, axis=0)[::2],
    "backwards": lambda: GOOD[::-1].copy()[::-1],
}


@pytest.mark.parametrize("case", FITTING)
def test_numbers_in_any_layout_are_the_same_numbers(case: str, saved: Path, graphrec: Any) -> None:
    array = FITTING[case]()
    np.save(saved / "features.npy", array)
    answer = graphrec("features", "import", "saved", "image", "features.npy")
    assert answer.code == 0, answer
    table = FeatureStore(saved / "cache").load_tables(shop())["image"]
    assert np.array_equal(table.numpy(), GOOD)
    assert table.values.dtype == (np.float16 if "float16" in case else np.float32)
    assert np.array_equal(FeatureTable.from_array(array, shop(), "image").numpy(), GOOD)


def test_misaligned_rows_are_brought_into_order_and_strangers_counted(saved: Path, graphrec: Any) -> None:
    np.save(saved / "features.npy", GOOD[[5, 0, 3]])
    (saved / "ids.txt").write_text("item5\nstranger\nitem3\n")
    answer = graphrec("features", "import", "saved", "image", "features.npy", "--ids", "ids.txt")
    assert answer.code == 0, answer
    assert any("1 rows" in line for line in answer.out.splitlines())
    table = FeatureStore(saved / "cache").load_tables(shop())["image"]
    assert np.flatnonzero(table.present).tolist() == [3, 5]
    assert np.array_equal(table.take([3, 5]), GOOD[[3, 5]])


class Recording:
    """A tensor that refuses to be an array, as one that records gradients does."""

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise RuntimeError("call detach() first\nsecond line")


VALUES: dict[str, tuple[Any, str]] = {
    "nothing": (None, "shape (), object"),
    "a name": ("features.npy", "shape (), "),
    "ragged": ([[1.0, 2.0], [3.0]], "(n, d)"),
    "objects": (GOOD.astype(object), "(6, 3), object"),
    "whole numbers": (GOOD.astype(int).tolist(), "(6, 3), int64"),
    "a tensor with gradients": (Recording(), "(call detach() first)"),
    "masked": (np.ma.masked_greater(GOOD, 9), "masked"),
    "a dictionary": ({"item0": [1.0]}, "shape (), object"),
    "float16 beyond its range": (np.full((N, 1), np.inf, np.float16), "row 0 (item 'item0')"),
}


@pytest.mark.parametrize("case", VALUES)
def test_what_is_no_table_of_numbers_is_refused(case: str) -> None:
    values, expected = VALUES[case]
    with pytest.raises(FeatureError) as caught:
        FeatureTable.from_array(values, shop(), "image", name="mine")
    assert str(caught.value).startswith("mine: ")
    assert expected in str(caught.value)


@pytest.mark.parametrize("present", [np.ones(5, bool), np.ones(N), np.ones((N, 1), bool), "all"])
def test_a_mask_of_another_form_is_refused(present: Any) -> None:
    with pytest.raises(FeatureError, match=r"^mine: .*\(6,\) bool"):
        FeatureTable.from_array(GOOD, shop(), "image", present=present, name="mine")


def test_rows_left_out_may_hold_anything() -> None:
    present = np.arange(N) != 4
    table = FeatureTable.from_array(with_value(np.nan), shop(), "image", present=present)
    assert np.array_equal(table.present, present)
    assert np.isfinite(table.numpy()).all()
