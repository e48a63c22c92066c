"""Damaged caches: ``verify`` finds all of it, nothing damaged is served, extracting again repairs it."""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from extraction import Hashing, catalog, files, flip, texts

from graphrec.core import files as core_files
from graphrec.core.errors import FeatureError
from graphrec.core.random import numpy_rng
from graphrec.data import Content
from graphrec.features import FeatureStore, FeatureTable, shards
from graphrec.features.extract.extraction import extract
from graphrec.features.store import table_lock

N = 20
FIELDS = ("text", "title")
SHOP = catalog(
    [f"i{i}" for i in range(N)],
    text=Content("text", texts(N)),
    title=Content("text", [t and f"title {t}" for t in texts(N)]),
)


def build(root: Path) -> Hashing:
    """Two tables of four shards."""
    made = Hashing()
    for field in FIELDS:
        extract(SHOP, field, made, FeatureStore(root), shard_size=5)
    return made


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    build(tmp_path / "cache")
    return FeatureStore(tmp_path / "cache")


def tick() -> None:
    """Lets the clock of the file system, which is coarser than ours, move on."""
    with tempfile.NamedTemporaryFile() as file:
        before = os.stat(file.name).st_mtime_ns
        while os.stat(file.name).st_mtime_ns == before:
            os.utime(file.name)


def damage(root: Path, rng: np.random.Generator) -> set[str]:
    """Spoils one file (or swaps two); returns the names, one of which ``verify`` must tell."""
    paths = [path for path in sorted(root.rglob("*")) if path.is_file() and path.name != ".lock"]
    path = paths[rng.integers(len(paths))]
    data = path.read_bytes()
    at = int(rng.integers(len(data)))
    match rng.choice(["flip", "flip", "flip", "cut", "cut", "append", "empty", "delete", "swap"]):
        case "flip":
            path.write_bytes(data[:at] + bytes([data[at] ^ int(rng.integers(1, 256))]) + data[at + 1 :])
        case "cut":
            path.write_bytes(data[:at])
        case "append":
            path.write_bytes(data + rng.bytes(int(rng.integers(1, 9))))
        case "empty":
            path.write_bytes(b"")
        case "delete":
            path.unlink()
        case "swap":
            alike = [p for p in paths if p.suffix == path.suffix and p != path and p.read_bytes() != data]
            other = alike[rng.integers(len(alike))]
            path.write_bytes(other.read_bytes())
            other.write_bytes(data)
            return {path.name, other.name}
    return {path.name}


def served(store: FeatureStore) -> dict[str, FeatureTable] | None:
    """What the store serves, or None if it says that it cannot; any other error is a fault."""
    try:
        return store.load_tables(SHOP)
    except FeatureError:
        return None


def test_300_random_damages_are_found_and_none_is_served(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = numpy_rng(0, "test/damage")
    whole = {field: table.numpy() for field, table in store.load_tables(SHOP).items()}
    present = {field: table.present for field, table in store.load_tables(SHOP).items()}
    good = files(store.root)
    refused = 0
    for k in range(300):
        names = damage(store.root, rng)
        problems = store.verify()
        assert any(name in problem for name in names for problem in problems), (k, names, problems)
        for fresh in (False, True):  # in a process that has read the tables before, and in one that has not
            if fresh:
                monkeypatch.setattr(shards, "_verified", set())
            tables = served(store)
            refused += tables is None
            for field, table in (tables or {}).items():
                assert np.array_equal(table.numpy(), whole[field]), (k, names)
                assert np.array_equal(table.present, present[field]), (k, names)
        served(FeatureStore(store.root, verify=False))  # may be wrong, by request, but is no bare error
        if k % 10 == 0:
            again = build(store.root)
            assert files(store.root) == good, (k, names)
            assert len(again.seen) <= 5 * len(names), "only what was damaged is made again"
        for name, data in good.items():
            path = store.root / name
            if not path.exists() or path.read_bytes() != data:
                path.write_bytes(data)
    assert store.verify() == []
    assert refused > 100


def test_every_byte_of_a_sidecar_and_a_manifest_counts(store: FeatureStore) -> None:
    """White space too, and a number written in another way: what parses to the same is still not the same."""
    for name in ("manifest.json", "shard-00001.json"):
        path = next(store.root.rglob(name))
        data = path.read_bytes()
        for old, new in ((b" ", b"\t"), (b"\n", b"\r"), (b"\n", b" "), (b'"format"', b'"\\u0066ormat"')):
            path.write_bytes(data.replace(old, new, 1))
            assert [p for p in store.verify() if name in p], (name, old, new)
        path.write_bytes(data[:-1])
        assert [p for p in store.verify() if name in p], "the last line's end"
        path.write_bytes(data)
    assert store.verify() == []


@pytest.mark.parametrize("damage", [b"NaN", b"1e999", b'"\\ud800"', b"[" * 100_000, b"9" * 10_000])
def test_values_that_json_cannot_hold_are_no_bare_errors(store: FeatureStore, damage: bytes) -> None:
    for name in ("manifest.json", "shard-00001.json"):
        path = next(store.root.rglob(name))
        data = path.read_bytes()
        path.write_bytes(data.replace(b'"dim": 8', b'"dim": ' + damage, 1))
        assert [p for p in store.verify() if name in p]
        assert served(store) is None or name != "manifest.json"
        path.write_bytes(data)


def test_a_damage_that_keeps_the_time_stamp_is_found_at_the_next_opening(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "TIMESTAMP_SETTLED", 0.0)  # so that the first opening is remembered
    tick()
    store.load_tables(SHOP)
    path = next((store.root / "text").rglob("shard-00002.npy"))
    stat = path.stat()
    flip(path, -1)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(FeatureError, match=r"shard-00002\.npy"):
        store.load_tables(SHOP)


def test_what_was_written_just_now_is_hashed_again(store: FeatureStore) -> None:
    """Its time stamp may not tell the next change, since clocks of file systems tick slowly."""
    store.load_tables(SHOP)
    assert not any(str(store.root) in known[0] for known in shards._verified)
    for path in store.root.rglob("*.npy"):
        os.utime(path, ns=(0, 0))
    store.load_tables(SHOP)
    assert not any(str(store.root) in known[0] for known in shards._verified), (
        "a set-back time proves nothing"
    )


def test_a_table_is_hashed_once_in_a_process(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    monkeypatch.setattr(shards, "TIMESTAMP_SETTLED", 0.0)
    monkeypatch.setattr(
        shards, "sha256_file", lambda path: (hashed.append(path), core_files.sha256_file(path))[1]
    )
    tick()
    store.load_tables(SHOP)
    assert len(hashed) == 8
    store.load_tables(SHOP)
    assert len(hashed) == 8
    store.verify()
    assert len(hashed) == 16, "verify always hashes"


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("size", [5, N])
@pytest.mark.parametrize("how", ["flip", "cut", "map"])
def test_a_file_changed_in_place_under_an_open_table_is_refused(
    tmp_path: Path, used: bool, size: int, how: str
) -> None:
    """Before its first use and after; a file cut short under a mapping would otherwise end the process."""
    table = extract(SHOP, "text", Hashing(), FeatureStore(tmp_path), shard_size=size)
    if used:
        table.numpy()
    tick()
    path = next(tmp_path.rglob("shard-00000.npy"))
    if how == "flip":
        flip(path, -1)
    elif how == "cut":
        os.truncate(path, 100)
    else:
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
            mapped[-1] ^= 1
            mapped.flush()
    for use in (table.numpy, lambda: table.take([1]), lambda: table.values[0], table.compute_sha256):
        with pytest.raises(FeatureError, match=r"shard-00000\.npy"):
            use()


@pytest.mark.parametrize("used", [False, True])
def test_a_file_that_only_looks_changed_is_served(tmp_path: Path, used: bool) -> None:
    table = extract(SHOP, "text", Hashing(), FeatureStore(tmp_path), shard_size=5)
    whole = table.numpy() if used else FeatureStore(tmp_path).load_tables(SHOP, title=None)["text"].numpy()
    tick()
    for path in sorted(tmp_path.rglob("*.npy")):
        os.utime(path)
        os.link(path, path.with_name("backup"))
        shutil.copy(path, path.with_name("copy"))
        os.replace(path.with_name("copy"), path)
        path.with_name("backup").unlink()
    assert np.array_equal(table.numpy(), whole)


def test_a_file_replaced_between_the_check_and_the_use_is_not_mixed_in(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process extracts again while this one opens the table."""
    checked = shards.shard_problem

    def replaced(folder: Path, entry: dict[str, object], hashed: bool, again: bool = False) -> str | None:
        problem = checked(folder, entry, hashed, again)
        np.save(folder / "other.npy", np.ones((5, 8)))
        os.replace(folder / "other.npy", folder / str(entry["file"]))
        return problem

    monkeypatch.setattr(shards, "shard_problem", replaced)
    table = store.load_tables(SHOP, title=None)["text"]
    with pytest.raises(FeatureError, match=r"shard-\d+\.npy"):
        table.take([0])


def test_a_file_that_vanishes_between_manifest_and_use_is_named(store: FeatureStore) -> None:
    stored = store.tables("text")[0]
    table = store.load_tables(SHOP, title=None)["text"]
    next((store.root / "text").rglob("shard-00003.npy")).unlink()
    with pytest.raises(FeatureError, match=r"shard-00003\.npy"):
        stored.open()
    assert table.take([0]).shape == (1, 8)
    with pytest.raises(FeatureError, match=r"shard-00003\.npy"):
        table.take([N - 1])
    shutil.rmtree(store.root)
    with pytest.raises(FeatureError, match=r"\.npy"):
        stored.open()
    with pytest.raises(FeatureError, match="features build"):
        store.load_tables(SHOP)


def test_a_manifest_that_vanishes_while_tables_are_listed_is_no_error(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = shards.read_manifest

    def vanished(folder: Path) -> dict[str, object]:
        if folder.parent.name == "text":
            (folder / "manifest.json").unlink(missing_ok=True)
        return read(folder)

    monkeypatch.setattr(shards, "read_manifest", vanished)
    assert [t.manifest["field"] for t in store.tables()] == ["title"]


def spoil_header(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data.replace(b"{", b"(", 1))


def to_npz(path: Path) -> None:
    with open(path, "wb") as file:
        np.savez(file, values=np.ones((5, 8)))


def to_half_a_zip(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04" + path.read_bytes()[4:])


@pytest.mark.parametrize("spoil", [spoil_header, to_npz, to_half_a_zip])
def test_an_array_in_no_form_of_numpys_is_named(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    path = tmp_path / "values.npy"
    np.save(path, np.ones((5, 8)))
    spoil(path)
    with pytest.raises(FeatureError, match=r"values\.npy"):
        core_files.read_array(path, FeatureError, mmap=True)
    with pytest.raises(FeatureError, match=r"values\.npy"):
        core_files.read_array(path, FeatureError)


def test_shards_of_another_extractor_are_not_taken_over(tmp_path: Path) -> None:
    """Rows, content and checksums agree; only the numbers are another extractor's."""

    class Other(Hashing):
        name = "other"

        def encode(self, batch: list[str]) -> np.ndarray:
            return -super().encode(batch)

    folders = []
    for made in (Hashing(), Other()):
        extract(SHOP, "text", made, FeatureStore(tmp_path), shard_size=5)
        folders.append(FeatureStore(tmp_path).tables("text")[0].folder)
    before, again = files(tmp_path), Hashing()
    for path in folders[1].glob("shard-00001.*"):
        shutil.copy(path, folders[0] / path.name)
    assert len(FeatureStore(tmp_path).verify()) == 2
    extract(SHOP, "text", again, FeatureStore(tmp_path), shard_size=5)
    assert len(again.seen) == 5
    assert files(tmp_path) == before


def test_a_reason_need_not_be_valid_unicode(tmp_path: Path) -> None:
    """The name of a file may hold any byte."""
    mask = np.zeros(2, dtype=bool)
    name = os.fsdecode(b"\xff.png")
    shards.write_shard(tmp_path, 0, 0, np.zeros((2, 3)), mask, unreadable={"i0": f"{name}: no such file"})
    entry = shards.finished_shard(tmp_path, 0, 0, 2)
    assert entry is not None
    assert entry["unreadable"] == {"i0": "\\udcff.png: no such file"}


# -- gc beside writers ------------------------------------------------------------


def test_the_lock_names_what_it_guards(tmp_path: Path) -> None:
    """Whoever waited for a lock that was removed with its directory locks what was made in its place."""
    folder, order = tmp_path / "text" / ("0" * 32), []

    def wait() -> None:
        with table_lock(folder) as check:
            check()
            order.append("waiter")

    with table_lock(folder) as check:
        check()
        waiter = threading.Thread(target=wait)
        waiter.start()
        tick()
        order.append("holder")
        shutil.rmtree(folder)
        with pytest.raises(FeatureError, match="removed"):
            check()
        folder.mkdir()
    waiter.join()
    assert order == ["holder", "waiter"]


def test_gc_sweeps_by_lock_and_not_by_process_id(store: FeatureStore) -> None:
    """A process id in a file's name may be in use again, or be one of another machine."""
    stray = next((store.root / "text").glob("*/")) / f".shard-00000.npy.{os.getppid()}-ab.tmp"
    stray.write_bytes(b"x")
    with table_lock(stray.parent):
        assert store.gc() == []
        assert stray.exists()
    assert store.gc() == [stray]
    assert not stray.exists()
    stray.write_bytes(b"x")
    build(store.root)
    assert not stray.exists()


def test_gc_spares_a_table_that_was_finished_while_it_listed(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed, good = FeatureStore.tables, files(store.root)
    manifest = next((store.root / "text").rglob("manifest.json"))
    data = manifest.read_bytes()
    manifest.unlink()

    def tables(self: FeatureStore, *given: object, **more: object) -> list[object]:
        tables = listed(self, *given, **more)
        manifest.write_bytes(data)
        return tables

    monkeypatch.setattr(FeatureStore, "tables", tables)
    assert store.gc() == []
    assert files(store.root) == good
