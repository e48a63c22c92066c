"""Properties of the readers: what is written is read back, arbitrary bytes end in a dataset or an error."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings, strategies as st

from bad.cases import arrow, parquet
from bad.test_tables import BABY, INTER, MOVIELENS, SCIENTIFIC, WHOLE, XWINES
from graphrec.core.errors import GraphrecError
from graphrec.core.random import numpy_rng
from graphrec.data import Dataset, Interactions
from graphrec.data.readers import load_dataset
from graphrec.data.readers.files import ordered_ids
from graphrec.data.splits import ColdItems, LeaveOneOut, RandomSplit, TimeSplit, k_core
from graphrec.data.times import LATEST

ALL_TRAIN = {"name": "random", "valid": 0, "test": 0}
IDS = st.one_of(
    st.sampled_from(["007", "7", "NA", "null", "nan", "None", "1e5", "true", '"', '""', "a,b", "a\tb", "a\nb",
                     "a\r\nb", "\ufeffx", " x ", "\\", "\\n", "'", "caf\u00e9", "cafe\u0301", "\u2028"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12),
)  # fmt: skip
ROWS = st.lists(
    st.tuples(IDS, IDS, st.integers(-LATEST, LATEST), st.integers(0, 2)),
    min_size=1, max_size=12, unique_by=lambda row: row[:2],
)  # fmt: skip


def written(frame: pl.DataFrame, suffix: str) -> bytes:
    out = io.BytesIO()
    if suffix in ("csv", "tsv"):
        # A carriage return alone is quoted too, though Polars would not.
        frame.write_csv(out, separator="," if suffix == "csv" else "\t", quote_style="non_numeric")
    elif suffix == "jsonl":
        frame.write_ndjson(out)
    else:
        return parquet(frame) if suffix == "parquet" else arrow(frame)
    return out.getvalue()


def read(content: bytes, name: str, **options: object) -> Dataset:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(content)
        return load_dataset("table", folder, interactions=name, **options)


def triples(data: Dataset, split: str) -> set[tuple[str, str, int]]:
    part = getattr(data, split)
    users, items = data.users.take(part.users), data.items.take(part.items)
    return set(zip(users, items, part.times.tolist(), strict=True))


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet", "arrow"])
@settings(max_examples=40, deadline=None)
@given(rows=ROWS)
@example(rows=[("007", '"', 1, 0), ("7", "a\nb", 2, 0), ("NA", "", 3, 0)])
def test_what_is_written_is_read_back(suffix, rows):
    rows = [(u, i or "x", t, 0 if n == 0 else s) for n, (u, i, t, s) in enumerate(rows)]
    frame = pl.DataFrame(
        rows, schema={"user": pl.String, "item": pl.String, "t": pl.Int64, "part": pl.Int64}, orient="row"
    )
    data = read(written(frame, suffix), f"a.{suffix}", time="t", time_unit="s", split="part")
    for label, split in enumerate(("train", "valid", "test")):
        assert triples(data, split) == {row[:3] for row in rows if row[3] == label}


@settings(max_examples=40, deadline=None)
@given(rows=ROWS)
def test_inter_keeps_every_id_that_fits_between_tabs(rows):
    def plain(text: str) -> str:
        return "".join(c for c in text if c not in "\t\r\n\ufeff") or "x"

    pairs = {(plain(u), plain(i)) for u, i, _, _ in rows}
    content = "userID\titemID\n" + "".join(f"{u}\t{i}\n" for u, i in sorted(pairs))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.inter").write_text(content, encoding="utf-8", newline="")
        data = load_dataset("inter", folder, split=ALL_TRAIN)
    kept = zip(data.users.take(data.train.users), data.items.take(data.train.items), strict=True)
    assert set(kept) == pairs


@pytest.mark.parametrize("suffix", ["csv", "tsv", "inter", "jsonl", "parquet", "arrow"])
@settings(max_examples=60, deadline=None)
@given(
    content=st.one_of(
        st.binary(max_size=80),
        st.lists(st.sampled_from([b"user", b"item", b",", b"\t", b"\n", b"\r", b'"', b"a", b"{", b"}", b":",
                                  b"[", b"]", b"1", b"\xff", b"\0", b"\xef\xbb\xbf", b"\xe2\x80\xa8"]),
                 max_size=30).map(b"".join),
    )
)  # fmt: skip
@example(content=b'user,item\n"')
@example(content=b'user\titem\n""')
def test_arbitrary_bytes_are_a_dataset_or_an_error(suffix, content):
    try:
        assert isinstance(read(content, f"a.{suffix}", split=ALL_TRAIN), Dataset)
    except GraphrecError as error:
        if f"a.{suffix}" not in str(error):
            raise


@settings(max_examples=60, deadline=None)
@given(order=st.permutations(range(7)))
def test_a_mapping_is_read_in_index_order_whatever_the_order_of_its_rows(order):
    frame = pl.DataFrame({"id": [f"i{n}" for n in order], "index": [str(n) for n in order]})
    assert ordered_ids(frame, "id", "index", Path("map")) == [f"i{n}" for n in range(7)]


PAIRS = st.sets(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=40).map(sorted)


@settings(max_examples=80, deadline=None)
@given(pairs=PAIRS, cores=st.tuples(st.integers(0, 4), st.integers(0, 4)))
def test_k_core_is_what_dropping_one_at_a_time_leaves(pairs, cores):
    left = set(pairs)
    while True:
        bad = next(
            (
                pair
                for pair in sorted(left)
                for side in (0, 1)
                if sum(other[side] == pair[side] for other in left) < cores[side]
            ),
            None,
        )
        if bad is None:
            break
        left.remove(bad)
    users, items = np.array(pairs).T
    mask = k_core(users, items, *cores)
    assert {pair for pair, kept in zip(pairs, mask, strict=True) if kept} == left


@settings(max_examples=80, deadline=None)
@given(
    pairs=PAIRS,
    seed=st.integers(0, 99),
    recipe=st.one_of(
        st.builds(RandomSplit, st.floats(0, 0.45), st.floats(0, 0.45)),
        st.builds(TimeSplit, st.floats(0, 0.45), st.floats(0, 0.45)),
        st.just(LeaveOneOut()),
        st.builds(ColdItems, st.floats(0.05, 0.9)),
    ),
)
def test_splits_are_disjoint_cover_all_and_repeat(pairs, seed, recipe):
    users, items = np.array(pairs).T
    part = Interactions(users, items, 8, 8, (users * 3 + items * 5) % 7)
    labels = recipe.assign(part, seed)
    assert labels.shape == (len(pairs),)
    assert set(np.unique(labels)) <= {0, 1, 2}
    assert np.array_equal(labels, recipe.assign(part, seed))
    shuffled = numpy_rng(seed, "test").permutation(len(pairs))
    again = Interactions(users[shuffled], items[shuffled], 8, 8, part.times[shuffled])
    assert np.array_equal(labels, recipe.assign(again, seed)), "the order of the rows does not matter"
    keys = [set(part.keys[labels == label].tolist()) for label in (0, 1, 2)]
    assert set.union(*keys) == set(part.keys.tolist())
    assert sum(map(len, keys)) == len(pairs)


# -- valid files, mutated ------------------------------------------------------------------------------------

FRAME = pl.DataFrame({
    "user": [f"u{n % 5}" for n in range(20)], "item": [f"i{n % 7}" for n in range(20)],
    "t": range(20), "part": [0, 0, 1, 2] * 5,
})  # fmt: skip
TABLES = {
    f"table {suffix}": ("table", {f"a.{suffix}": written(FRAME, suffix)}, f"a.{suffix}",
                        {"interactions": f"a.{suffix}", "time": "t"})
    for suffix in ("csv", "tsv", "jsonl", "parquet", "arrow")
}  # fmt: skip
LAYOUTS = {
    "inter": ("inter", {"a.inter": INTER.encode()}, {}),
    "amazon-baby": ("amazon-baby", BABY, {}),
    "amazon-scientific": ("amazon-scientific", SCIENTIFIC, {}),
    "movielens-small": ("movielens-small", MOVIELENS, {"k_core": 1}),
    "xwines": ("xwines", XWINES, {"k_core": 1}),
    "gowalla": ("gowalla", {"gowalla_lightgcn_split.npz": WHOLE}, {}),
}
MUTATED = {
    **TABLES,
    **{
        f"{name} {file}": (reader, files, file, options)
        for name, (reader, files, options) in LAYOUTS.items()
        for file in files
    },
}
ROUNDS = 200  # a file; some 5,000 in all


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One to three changes: a byte exchanged, a piece cut out, bytes put in, or a line written twice."""
    for _ in range(rng.integers(1, 4)):
        kind, at = rng.integers(4), int(rng.integers(len(data) + 1))
        if kind == 0 and at < len(data):
            data = data[:at] + bytes([rng.integers(256)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + data[at + int(rng.integers(1, 30)) :]
        elif kind == 2:
            data = (
                data[:at] + rng.integers(256, size=rng.integers(1, 9)).astype(np.uint8).tobytes() + data[at:]
            )
        else:
            lines = data.splitlines(keepends=True)
            if lines:
                row = int(rng.integers(len(lines)))
                data = b"".join([*lines[: row + 1], *lines[row:]])
    return data


@pytest.mark.parametrize("name", MUTATED)
def test_mutated_files_are_a_dataset_or_an_error(tmp_path, name):
    reader, files, file, options = MUTATED[name]
    whole = {n: text if isinstance(text, bytes) else text.encode() for n, text in files.items()}
    for other, content in whole.items():
        (tmp_path / other).write_bytes(content)
    rng = numpy_rng(0, f"mutate/{name}")
    for _ in range(ROUNDS):
        content = mutate(whole[file], rng)
        (tmp_path / file).write_bytes(content)
        try:
            data = load_dataset(reader, tmp_path, **options)
            assert len(data.train)
        except GraphrecError:
            pass
        except BaseException as error:
            pytest.fail(f"{type(error).__name__}: {error}\n{content!r}")
