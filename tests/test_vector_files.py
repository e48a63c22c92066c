"""Ready-made vectors from files of every kind, aligned by id, through the command and in Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from graphrec import testing
from graphrec.cli.main import main
from graphrec.core.errors import FeatureError
from graphrec.data import Vocabulary
from graphrec.features import FeatureStore, FeatureTable
from graphrec.features.vector_files import describe_near, near_ids, read_vectors

SHOP, _ = testing.communities(2, 8)
IDS = list(SHOP.items.ids)
N = len(IDS)
VALUES = np.arange(1, 3 * N + 1, dtype=np.float32).reshape(N, 3) / 4
ORDER = list(range(N))[::-1]


def frame(ids: list[str] | None = None) -> pl.DataFrame:
    columns = {f"v{i}": VALUES[ORDER, i] for i in range(3)}
    return pl.DataFrame(({"asin": ids} if ids is not None else {}) | columns)


def write_text(path: Path) -> Path:
    path.write_text("\n".join(IDS[i] for i in ORDER) + "\n")
    return path


SHUFFLED_IDS = [IDS[i] for i in ORDER]
VECTORS: dict[str, Callable[[Path], object]] = {
    "v.npy": lambda p: np.save(p, VALUES[ORDER]),
    "v.npz": lambda p: np.savez(p, VALUES[ORDER]),
    "v.npz:clip": lambda p: np.savez(p, other=np.ones(3), clip=VALUES[ORDER]),
    "v.safetensors": lambda p: save_file({"x": torch.from_numpy(VALUES[ORDER].copy())}, p),
    "b.safetensors:x": lambda p: save_file(
        {"x": torch.from_numpy(VALUES[ORDER].copy()).bfloat16(), "y": torch.ones(2)}, p
    ),
    "v.pt": lambda p: write_torch(p, torch.from_numpy(VALUES[ORDER].copy())),
    "d.pt:clip": lambda p: write_torch(p, {"clip": torch.from_numpy(VALUES[ORDER].copy()), "n": 3}),
    "v.csv": lambda p: frame().write_csv(p),
    "bare.csv": lambda p: frame().write_csv(p, include_header=False),
    "v.tsv": lambda p: frame().write_csv(p, separator="\t"),
    "v.parquet": lambda p: frame().write_parquet(p),
    "lists.parquet": lambda p: pl.DataFrame({"v": VALUES[ORDER].tolist()}).write_parquet(p),
}
ID_FILES: dict[str, Callable[[Path], object]] = {
    "ids.txt": write_text,
    "ids.npy": lambda p: np.save(p, np.array(SHUFFLED_IDS)),
    "bytes.npy": lambda p: np.save(p, np.array(SHUFFLED_IDS, dtype="S")),
    "ids.csv:asin": lambda p: frame(SHUFFLED_IDS).write_csv(p),
    "one.csv": lambda p: frame(SHUFFLED_IDS).select("asin").write_csv(p),
    "ids.parquet:asin": lambda p: frame(SHUFFLED_IDS).write_parquet(p),
    "ids.npz:ids": lambda p: np.savez(p, v=VALUES, ids=np.array(SHUFFLED_IDS)),
}


def write_torch(path: Path, value: object) -> None:
    getattr(torch, "save")(value, path)  # noqa: B009  (written here, read as weights only)


def made(folder: Path, name: str, how: dict[str, Callable[[Path], object]]) -> str:
    how[name](folder / name.partition(":")[0])
    return str(folder / name)


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_of_every_kind_of_file_are_aligned_by_id(tmp_path: Path, name: str) -> None:
    vectors = made(tmp_path, name, VECTORS)
    table = FeatureTable.from_file(vectors, SHOP, "image", write_text(tmp_path / "ids.txt"))
    expected = torch.from_numpy(VALUES).bfloat16().float().numpy() if name.startswith("b.") else VALUES
    assert np.array_equal(table.numpy(), expected)
    assert table.meta["matched"] == {"by": "ids", "rows": [[0, IDS[-1]], [N - 1, IDS[0]]]}


@pytest.mark.parametrize("name", ID_FILES)
def test_ids_of_every_kind_of_file(tmp_path: Path, name: str) -> None:
    ids = made(tmp_path, name, ID_FILES)
    table = FeatureTable.from_file(made(tmp_path, "v.npy", VECTORS), SHOP, "image", ids)
    assert np.array_equal(table.numpy(), VALUES)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_ids_are_a_column_of_the_table_of_the_vectors(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"v.{suffix}"
    getattr(frame(SHUFFLED_IDS), f"write_{suffix}")(path)
    table = FeatureTable.from_file(path, SHOP, "image", f"{path}:asin")
    assert np.array_equal(table.numpy(), VALUES)
    with pytest.raises(FeatureError, match=r"'asin'.*--ids .*:asin"):
        FeatureTable.from_file(path, SHOP, "image")
    with pytest.raises(FeatureError, match=r"no column 'asn'.*'asin'"):
        FeatureTable.from_file(path, SHOP, "image", f"{path}:asn")


def test_a_column_of_whole_numbers_that_are_ids_is_no_part_of_the_vectors(tmp_path: Path) -> None:
    ids = [f"{7 + i}" for i in range(N)]
    frame(ids).write_csv(tmp_path / "v.csv")
    with pytest.raises(FeatureError, match=r"column 'asin' holds item ids"):
        read_vectors(tmp_path / "v.csv", Vocabulary(ids))


CHANGED = {
    "spaces": (lambda i: f" {i} ", "spaces"),
    "case": (str.upper, "case"),
}


@pytest.mark.parametrize("kind", CHANGED)
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_ids_that_match_in_another_form_only_are_named(tmp_path: Path, kind: str, share: float) -> None:
    change, word = CHANGED[kind]
    ids = [change(i) if row < share * N else i for row, i in enumerate(IDS)]
    np.save(tmp_path / "ids.npy", np.array(ids))
    np.save(tmp_path / "v.npy", VALUES)
    if share == 1:
        with pytest.raises(FeatureError) as refused:
            FeatureTable.from_file(tmp_path / "v.npy", SHOP, "image", tmp_path / "ids.npy")
        text = str(refused.value)
        assert f"{N} more ids" in text
        assert repr(ids[0]) in text
        assert repr(IDS[0]) in text
        assert word in text
        return
    table = FeatureTable.from_file(tmp_path / "v.npy", SHOP, "image", tmp_path / "ids.npy")
    (name,) = table.meta["near_ids"]
    assert word in name
    assert table.meta["near_ids"][name] == {"count": N // 2, "example": [ids[0], IDS[0]]}


@pytest.mark.parametrize(("wrong", "word"), [(lambda i: f"00{i}", "zeros"), (lambda i: f"{i}.0", "fraction")])
def test_numbers_written_otherwise_are_named(wrong: Callable[[int], str], word: str) -> None:
    known = Vocabulary([str(7 + i) for i in range(N)])
    near = near_ids([wrong(7 + i) for i in range(N)], known)
    (name,) = near
    assert word in name
    assert near[name] == {"count": N, "example": [wrong(7), "7"]}
    assert repr(wrong(7)) in describe_near(near)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    SHOP.save(tmp_path / "shop")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0), "".join(capfd.readouterr())


def test_the_command_says_where_the_rows_went(shop: Path, capfd: pytest.CaptureFixture[str]) -> None:
    np.save("v.npy", VALUES)
    code, shown = run(capfd, "features", "import", "shop", "image", "v.npy")
    assert code == 0, shown
    assert "matched by position" in shown
    assert f"row 0 is item {IDS[0]!r}" in shown
    assert f"row {N - 1} is item {IDS[-1]!r}" in shown
    assert "--ids" in shown
    np.save("ids.npy", np.array([i.upper() if row < 3 else i for row, i in enumerate(IDS)]))
    np.save("mask.npy", np.arange(N) != 5)
    code, shown = run(
        capfd, "features", "import", "shop", "text", "v.npy", "--ids", "ids.npy", "--present", "mask.npy"
    )
    assert code == 0, shown
    assert f"row 3 is item {IDS[3]!r}" in shown
    assert "3 more ids" in shown
    assert repr(IDS[0].upper()) in shown
    present = FeatureStore(shop / "cache").load_tables(SHOP)["text"].present
    assert np.flatnonzero(~present).tolist() == [0, 1, 2, 5]


def test_a_mask_with_another_value_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", VALUES)
    (tmp_path / "mask.txt").write_text("1\n" * 3 + "maybe\n" + "0\n" * (N - 4))
    with pytest.raises(FeatureError, match=r"mask\.txt: row 3 holds 'maybe'"):
        FeatureTable.from_file(tmp_path / "v.npy", SHOP, "image", present=tmp_path / "mask.txt")


@pytest.mark.parametrize("name", ["v.xlsx", "none.parquet", "none.pt", "v", "none.csv"])
def test_a_file_of_another_kind_or_none_is_refused(tmp_path: Path, name: str) -> None:
    if not name.startswith("none"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(FeatureError, match=name):
        FeatureTable.from_file(tmp_path / name, SHOP, "image")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt", ".csv", ".parquet"])
def test_damaged_files_are_refused_by_name(tmp_path: Path, suffix: str) -> None:
    for content in (b"", b"\x80\x04junk", b"PK\x03\x04" + b"\0" * 40):
        (tmp_path / f"v{suffix}").write_bytes(content)
        with pytest.raises(FeatureError, match=rf"v\{suffix}"):
            FeatureTable.from_file(tmp_path / f"v{suffix}", SHOP, "image")
