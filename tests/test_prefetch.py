"""Features that stay on disk: the same models from them, what is read when, and how much memory it takes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from extraction import sharded
from tolerances import BFLOAT16_BM3, ON_DISK

from graphrec import testing
from graphrec.core.errors import ConfigError, GraphError
from graphrec.core.random import numpy_rng
from graphrec.features import FeatureTable
from graphrec.features.prefetch import RowsOnDisk, prefetch
from graphrec.graphs import knn as neighbor_graphs
from graphrec.graphs.knn import knn
from graphrec.models import model
from graphrec.models.layers import ItemFeatures
from graphrec.models.train_config import TrainConfig
from graphrec.training.trainer import Trainer

MODELS = ("bm3", "freedom", "vbpr")
OPTIONS: dict[str, dict[str, Any]] = {"freedom": {"reg_weight": 0.1}, "bm3": {"reg_weight": 0.0}}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A dataset and its two tables in a store, several shards each, some items without."""
    data, _ = testing.communities(2, 40)
    values = numpy_rng(0, "tests/disk").normal(size=(2, data.n_items, 6)).astype(np.float32)
    values[0, [1, 5]], values[1, [2, 5]] = 0, 0
    root = tmp_path_factory.mktemp("store")
    fields = zip(("image", "text"), values, strict=True)
    return data, {field: sharded(root / field, part, 7, data) for field, part in fields}


def trained(name: str, data: Any, tables: Any, epochs: int = 4, **options: Any) -> Any:
    cls = model(name)
    made = cls.build(data, tables, cls.Config(**{"dim": 8, **OPTIONS.get(name, {}), **options}))
    config = TrainConfig(
        epochs=epochs, batch_size=50, learning_rate=0.01, device="cpu", progress=False, patience=None
    )
    return Trainer(config).fit(made).model


@pytest.mark.parametrize("name", MODELS)
def test_what_is_learned_is_that_of_features_in_memory(name: str, stored: Any) -> None:
    here, there = (trained(name, *stored, features_on_disk=on_disk) for on_disk in (False, True))
    parts = zip(here.state_dict().items(), there.state_dict().values(), strict=True)
    for (part, a), b in parts:
        assert torch.allclose(a, b, rtol=0, atol=ON_DISK), part
    for a, b in zip(here.embed(), there.embed(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=ON_DISK)
    start = model(name).build(*stored, model(name).Config(dim=8)).state_dict()
    assert any(float((start[part] - a).abs().max()) > 0.01 for part, a in here.state_dict().items())


@pytest.mark.parametrize("name", MODELS)
def test_bfloat16_is_read_from_disk_too(name: str, stored: Any) -> None:
    options = {"feature_dtype": "bfloat16"}
    here, there = (trained(name, *stored, features_on_disk=on_disk, **options) for on_disk in (False, True))
    full, half = (made.score(np.arange(stored[0].n_users)) for made in (here, there))
    assert (full - half).square().mean().sqrt() / full.std() < BFLOAT16_BM3
    assert there.features["image"].disk.block(np.arange(3)).dtype == torch.bfloat16


@pytest.mark.parametrize("name", MODELS)
def test_nothing_of_the_features_is_kept_and_each_row_is_read_once_a_step(
    name: str, stored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, tables = stored
    cls = model(name)
    made = cls.build(data, tables, cls.Config(dim=8, features_on_disk=True, **OPTIONS.get(name, {})))
    for part in (*made.buffers(), *made.parameters()):
        assert part.shape != (data.n_items, 6)
    read, threads = list[np.ndarray](), set[str]()
    plain = FeatureTable.take

    def rows(self: FeatureTable, wanted: Any) -> np.ndarray:
        read.append(np.asarray(wanted))
        threads.add(threading.current_thread().name)
        return plain(self, wanted)

    monkeypatch.setattr(FeatureTable, "take", rows)
    config = TrainConfig(epochs=1, batch_size=50, device="cpu", progress=False, patience=None)
    Trainer(config).fit(made)
    n_steps = -(-len(data.train) // 50)
    assert len(read) == 2 * n_steps  # of two modalities
    assert all((np.diff(part) > 0).all() for part in read)
    assert all(name.startswith("features") for name in threads)  # ahead of the step, not in it


def test_weights_of_features_that_are_not_read_switch_reading_off(
    stored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = list[Any]()
    monkeypatch.setattr(RowsOnDisk, "block", lambda _, rows: read.append(rows))
    trained("freedom", *stored, features_on_disk=True, reg_weight=0.0)
    trained("bm3", *stored, features_on_disk=True, cl_weight=0.0)
    assert not read


def test_rows_asked_for_are_read_ahead_and_others_on_the_spot() -> None:
    values = numpy_rng(0, "tests/disk/rows").normal(size=(20, 3)).astype(np.float32)
    present = np.arange(20) % 5 > 0
    rows = RowsOnDisk(FeatureTable(values, present), torch.float32)
    a, b = torch.tensor([3, 1, 3]), torch.tensor([10, 7])
    with ThreadPoolExecutor(1) as pool:
        rows.request(np.array([1, 3, 7, 10]), pool)
        rows.request(np.array([7, 10]), pool)
    for asked in ((a, b), (b,), (a,)):
        found, places = rows.take(*asked)
        for items, at in zip(asked, places, strict=True):
            expected = np.where(present[items][:, None], values[items], 0)
            assert np.array_equal(found[at].numpy(), expected)
    assert not rows._pending
    with ThreadPoolExecutor(1) as pool:
        rows.request(np.array([1, 3]), pool)  # as many rows as are then taken, and others
    found, (at,) = rows.take(b)
    assert np.array_equal(found[at].numpy(), np.where(present[b][:, None], values[b], 0))
    with ThreadPoolExecutor(1) as pool:
        for n in range(5):
            rows.request(np.array([n]), pool)
    assert len(rows._pending) == 2, "what nobody takes piles up"


def test_batches_come_as_they_are_and_one_is_read_ahead() -> None:
    rows = RowsOnDisk(FeatureTable(np.ones((9, 2), np.float32)), torch.float32)
    asked: list[int] = []
    batches = iter([torch.tensor([n]) for n in range(4)])

    def items(batch: torch.Tensor) -> tuple[torch.Tensor]:
        asked.append(int(batch))
        return (batch,)

    seen = []
    for batch in prefetch(batches, [rows], items):
        seen.append(int(batch))
        assert asked == list(range(min(len(seen) + 1, 4)))
        rows.take(batch)
    assert seen == [0, 1, 2, 3]
    left = prefetch(iter([torch.tensor([n]) for n in range(4)]), [rows], items)
    next(left)
    left.close()
    assert not rows._pending
    assert list(prefetch(iter([1, 2]), [], lambda _: pytest.fail("nothing to read"))) == [1, 2]


def test_an_error_of_reading_is_the_error_of_the_step(stored: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: FeatureTable, rows: Any) -> np.ndarray:
        raise GraphError("shard 3 was replaced")

    data, tables = stored
    cls = model("vbpr")
    made = cls.build(data, tables, cls.Config(dim=8, features_on_disk=True))
    monkeypatch.setattr(FeatureTable, "take", broken)
    with pytest.raises(GraphError, match="shard 3 was replaced"):
        Trainer(TrainConfig(epochs=1, device="cpu", progress=False, patience=None)).fit(made)


def test_all_rows_come_in_blocks(stored: Any) -> None:
    table = stored[1]["image"]
    here, there = ItemFeatures(table), ItemFeatures(table, on_disk=True)
    for size in (7, 80, 1000):
        parts = list(there.blocks(size))
        assert max(len(p) for p in parts) <= size
        assert torch.equal(torch.cat(parts), here.values)
        assert torch.equal(torch.cat(list(here.blocks(size))), here.values)
    items = torch.tensor([4, 1, 4])
    assert torch.equal(there(items), here(items))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vbpr", {"fill": "mean"}, "features_on_disk reads features as they are; fill='mean'"),
        ("bm3", {"train_features": True}, "train_features needs features in memory"),
        ("freedom", {"train_features": True}, "train_features needs features in memory"),
        ("freedom", {"freeze_item_graph": False}, "drop features_on_disk"),
    ],
)
def test_what_needs_features_in_memory_says_so(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model(name).Config(features_on_disk=True, **options)


# -- neighbors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["exact", "approximate"])
def test_neighbors_of_large_tables_are_looked_for_in_a_file(
    method: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = numpy_rng(0, "tests/disk/knn").normal(size=(300, 8)).astype(np.float32)
    table = FeatureTable(values, np.arange(300) % 7 > 0)
    plain = knn(table, 5, weight="cosine", method=method)
    monkeypatch.setattr(neighbor_graphs, "IN_MEMORY", 1000)
    monkeypatch.setattr(neighbor_graphs, "READ_BYTES", 1000)
    made = list[Any]()
    scratch = neighbor_graphs._temporary_array
    monkeypatch.setattr(neighbor_graphs, "_temporary_array", lambda *a: made.append(a) or scratch(*a))
    found = knn(table, 5, weight="cosine", method=method, cache=tmp_path / "new")
    assert torch.equal(found.col, plain.col)
    assert torch.equal(found.weight, plain.weight)
    assert made == [((int(table.present.sum()), 8), tmp_path / "new")]
    assert [p.name.split("-")[0] for p in (tmp_path / "new").iterdir()] == ["knn"]


def test_no_room_for_the_file_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, and not by a signal when the first page finds none."""

    def full(_: int, start: int, size: int) -> None:
        assert (start, size) == (0, 4 * 2**30 * 4)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(GraphError, match=r"no room for 16.0 GiB .*No space left.*graph_cache"):
        neighbor_graphs._temporary_array((2**30, 4), tmp_path)
    assert not list(tmp_path.iterdir())


LARGE = """
import resource, sys
import numpy as np, torch
torch.set_num_threads(1)
from graphrec.graphs import knn
from graphrec import testing
from graphrec.models import model
from graphrec.features import FeatureTable
from graphrec.models.train_config import TrainConfig
from graphrec.training.trainer import Trainer
knn.IN_MEMORY = knn.READ_BYTES = 2**23
data, _ = testing.communities(2, 320)
config = TrainConfig(epochs=1, batch_size=32, device="cpu", progress=False, patience=None)
def run(name, values, on_disk):
    cls = model(name)
    options = cls.Config(dim=8, features_on_disk=on_disk)
    made = Trainer(config).fit(cls.build(data, {"image": FeatureTable(values)}, options)).model
    with torch.no_grad():
        made.embed()
for name in sys.argv[2:]:
    run(name, np.ones((640, 4), np.float32), True)  # what libraries take at first
held = int(next(l for l in open("/proc/self/status") if l.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (held + 2**27, resource.RLIM_INFINITY))
for name in sys.argv[2:]:
    run(name, np.load(sys.argv[1], mmap_mode="r"), True)
    try:
        run(name, np.load(sys.argv[1], mmap_mode="r"), False)
    except MemoryError:
        print(name)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of memory")
@pytest.mark.slow
def test_tables_larger_than_memory_are_learned_from(tmp_path: Path) -> None:
    """A process that may take 128 MiB more, and a table of 160."""
    values = np.lib.format.open_memmap(tmp_path / "values.npy", "w+", np.float32, (640, 2**16))
    rng = numpy_rng(0, "tests/disk/large")
    for row in values:
        row[:100] = rng.normal(size=100)
    values.flush()
    command = [sys.executable, "-c", LARGE, str(tmp_path / "values.npy"), *MODELS]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(MODELS), "in memory there should not have been room"
