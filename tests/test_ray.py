"""Extraction and neighbors on a Ray cluster: the same bytes as in one process, whoever dies meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import on_ray
import pytest
import torch
from extraction import Hashing, files, shop, texts
from PIL import Image

from graphrec.core.errors import ClusterError, ConfigError, FeatureError
from graphrec.core.random import numpy_rng
from graphrec.core.ray import Cluster
from graphrec.features import FeatureStore, FeatureTable, extract as features
from graphrec.features.extract.extraction import extract
from graphrec.features.extract.llm.embeddings import EndpointEncoder
from graphrec.graphs import nearest
from graphrec.graphs.knn import knn
from graphrec.graphs.nearest import all_neighbors, approximate_neighbors, unit_length

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'graphrec[ray]'")
ROOT = Path(__file__).parent.parent
HERE = Cluster("local", workers=2)
PATH = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where workers note that they are about to die."""
    return tmp_path_factory.mktemp("killed") / "log"


@pytest.fixture(scope="module")
def cluster(killed: Path) -> Iterator[Cluster]:
    """Two workers on this machine, which can import what the tests can."""
    os.environ["KILLED"] = str(killed)
    threads, before = torch.get_num_threads(), os.environ.get("PYTHONPATH", "")
    torch.set_num_threads(1)  # so that two tasks fit beside one another
    os.environ["PYTHONPATH"] = PATH
    try:
        with HERE.connect():
            yield HERE
    finally:
        torch.set_num_threads(threads)
        os.environ["PYTHONPATH"] = before


def waited(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    """What the condition says once it is true."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.02)
    return found


def both(cluster: Cluster, root: Path, *of: Any, **options: Any) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """All files of a store filled in this process, and of one filled on the cluster."""
    for place, where in (("here", None), ("there", cluster)):
        data, kind, make = of
        extract(data, kind, make(), FeatureStore(root / place), cluster=where, **options)
    return files(root / "here"), files(root / "there")


def pictures(root: Path) -> list[str | None]:
    """Good pictures, none, and all kinds of bad ones."""
    rng = numpy_rng(0, "test/ray")
    names: list[str | None] = []
    for i in range(30):
        Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(root / f"{i}.png")
        names.append(f"{i}.png")
    (root / "7.png").write_bytes((root / "7.png").read_bytes()[:300])
    (root / "12.png").write_text("no picture")
    (root / "folder").mkdir()
    names[3], names[20], names[25] = None, "folder", "gone\ud800\n.png"
    return names


# -- extraction ----------------------------------------------------------------------------------------------


def test_texts_give_the_same_files(cluster: Cluster, tmp_path: Path) -> None:
    values = texts(60)
    values[5] = values[59] = None
    values[10], values[31] = "lone \ud800 half, \u00e9\u4e2d\U0001f600\x00", "zzz"
    here, there = both(
        cluster, tmp_path, shop(values), "text", lambda: features.extractor("tfidf-svd", size=8), shard_size=7
    )
    assert len(here) > 9 * 2
    assert here == there
    assert not [name for name in there if name.endswith(".tmp")]


@pytest.mark.slow
def test_pictures_give_the_same_files_whatever_is_wrong_with_them(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p").mkdir()
    monkeypatch.chdir(tmp_path)  # where the workers are not
    data = shop(pictures(tmp_path / "p"), "image", Path("p"))
    here, there = both(
        cluster, tmp_path, data, "image", lambda: features.extractor("hog-hsv"), shard_size=8, max_bad=0.5
    )
    assert here == there
    meta = FeatureStore(tmp_path / "there").load_tables(data)["image"].meta
    assert meta["unreadable"]["count"] == 4


@pytest.mark.slow
def test_shards_may_come_in_any_order(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    write = features.writer.TableWriter.write  # type: ignore[attr-defined]

    def noted(self: Any, shard: Any, *rest: Any) -> None:
        order.append(shard.number)
        write(self, shard, *rest)

    monkeypatch.setattr("graphrec.features.extract.writer.TableWriter.write", noted)
    values = texts(40)
    values[:5] = [f"slow {v}" for v in values[:5]]
    slow_first = partial(on_ray.SlowFirst, tmp_path / "log", 5)
    here, there = both(cluster, tmp_path, shop(values), "text", slow_first, shard_size=5, batch_size=5)
    assert here == there
    assert order[:8] == sorted(order[:8])
    assert order[8:] != sorted(order[8:]), "the second worker overtook the slow one"
    assert sorted(order[8:]) == list(range(8))


@pytest.mark.slow
def test_what_is_done_is_kept_and_what_changed_is_made_again(cluster: Cluster, tmp_path: Path) -> None:
    store, log = FeatureStore(tmp_path / "s"), tmp_path / "log"
    extract(shop(texts(20)), "text", Hashing(), store, shard_size=5)
    extract(shop(texts(20)), "text", on_ray.Slow(log, 0), store, shard_size=5, cluster=cluster)
    assert not log.exists(), "nothing was left to do, and no worker was asked"
    changed = shop(texts(20, changed=12))
    extract(changed, "text", on_ray.Slow(log, 0), store, shard_size=5, cluster=cluster)
    assert log.read_text().split()[1::2] == ["5"], "one shard"
    extract(changed, "text", Hashing(), FeatureStore(tmp_path / "fresh"), shard_size=5)
    assert files(store.root) == files(tmp_path / "fresh")


@pytest.mark.slow
def test_a_worker_killed_midway_costs_its_shard_alone(cluster: Cluster, tmp_path: Path) -> None:
    log, data = tmp_path / "log", shop(texts(80))
    extract(data, "text", Hashing(), FeatureStore(tmp_path / "here"), shard_size=4)
    killed: list[int] = []

    def kill() -> None:
        mark = log.with_suffix(".held")
        killed.append(int(waited(lambda: mark.exists() and mark.read_text())))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    extract(
        data,
        "text",
        on_ray.Held(log, 4, once=True),
        FeatureStore(tmp_path / "there"),
        shard_size=4,
        cluster=cluster,
    )
    killer.join()
    begun = [line.split()[0] for line in log.read_text().splitlines()]
    assert not Path(f"/proc/{killed[0]}").exists()
    assert len(set(begun)) >= 3, "another process took its place"
    assert 20 < len(begun) <= 22, "some shard was encoded twice, and few"
    assert files(tmp_path / "here") == files(tmp_path / "there")


@pytest.mark.slow
def test_what_kills_every_worker_ends_with_a_word(cluster: Cluster, tmp_path: Path) -> None:
    data, log, store = shop(texts(12)), tmp_path / "log", FeatureStore(tmp_path / "s")
    with pytest.raises(ClusterError, match=r"shard 1: 4 workers"):
        extract(data, "text", on_ray.Deadly(log, "n5", 99), store, shard_size=4, cluster=cluster)
    assert log.read_text() == "xxxx"


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_finished_shards(cluster: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "log"
    environment = {**os.environ, "PYTHONPATH": PATH}
    run = subprocess.Popen([sys.executable, on_ray.__file__, tmp_path / "s", log], env=environment, cwd=ROOT)
    waited(lambda: len(list((tmp_path / "s").rglob("shard-*.json"))) >= 3)
    run.kill()
    run.wait()
    waited(lambda: not any(Path(f"/proc/{p}").exists() for p in set(log.read_text().split()[::2])))
    finished = len(list((tmp_path / "s").rglob("shard-*.json")))
    assert finished < 12
    log.unlink()
    extract(
        shop(texts(48)), "text", on_ray.Slow(log, 0), FeatureStore(tmp_path / "s"), batch_size=4,
        shard_size=4, cluster=cluster,
    )  # fmt: skip
    assert len(log.read_text().splitlines()) == 12 - finished
    extract(shop(texts(48)), "text", Hashing(), FeatureStore(tmp_path / "fresh"), shard_size=4)
    assert files(tmp_path / "s") == files(tmp_path / "fresh")


@pytest.mark.slow
@pytest.mark.parametrize("error", [FeatureError, KeyError])
def test_an_error_of_a_worker_arrives_as_itself(cluster: Cluster, tmp_path: Path, error: Any) -> None:
    with pytest.raises(error, match="n17: found a wrong text; expected another; write one") as caught:
        extract(
            shop(texts(40)), "text", on_ray.Refusing(error), FeatureStore(tmp_path), shard_size=5,
            cluster=cluster,
        )  # fmt: skip
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_too_much_unreadable_stops_as_here(cluster: Cluster, tmp_path: Path) -> None:
    data = shop([f"{i}.png" for i in range(40)], "image", tmp_path)
    with pytest.raises(FeatureError, match=r"of 40 items with 'image' content.* No such file"):
        extract(
            data, "image", features.extractor("hog-hsv"), FeatureStore(tmp_path / "s"), shard_size=4,
            cluster=cluster,
        )  # fmt: skip


def test_workers_that_would_compute_something_else_are_refused(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"{'version': '2'}"):
        extract(shop(texts(9)), "text", on_ray.MachineDependent(), FeatureStore(tmp_path), cluster=cluster)


@pytest.mark.slow
def test_an_error_gives_the_workers_back(cluster: Cluster, tmp_path: Path) -> None:
    one = Cluster("local", workers=1)
    with pytest.raises(ConfigError) as caught:
        extract(shop(texts(99)), "text", on_ray.Refusing(), FeatureStore(tmp_path), shard_size=3, cluster=one)
    assert caught.traceback, "whoever holds the error holds every frame"
    waited(lambda: ray.available_resources().get("CPU") == 2, 10)


def test_a_machine_that_does_not_see_the_pictures_is_refused() -> None:
    from graphrec.features.extract.on_ray import ShardEncoder

    worker = ShardEncoder([None], "{}", "image", "/nowhere/at/all", True, 8, 2, None, None)
    with pytest.raises(ClusterError, match="/nowhere/at/all"):
        worker._load_extractor()


def test_an_extractor_that_cannot_travel_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"hashing: .*__getstate"):
        extract(shop(texts(9)), "text", on_ray.Unsendable(), FeatureStore(tmp_path), cluster=cluster)


def test_extractors_travel_fitted_and_without_models_and_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray import cloudpickle

    segments = features.extractor("code-segments", segments=3)
    code = [f"def f{i}(x_{i % 5}):\n    return g(x_{i % 5}) + {i % 7}" for i in range(24)]
    segments.fit(code)  # type: ignore[attr-defined]
    assert np.array_equal(segments.encode(code), cloudpickle.loads(cloudpickle.dumps(segments)).encode(code))

    monkeypatch.setenv("OPENAI_API_KEY", "a-very-secret-key")
    pytest.importorskip("openai")
    one = EndpointEncoder("small", "http://127.0.0.1:9/v1", batch_size=7)
    sent = cloudpickle.dumps(one)
    assert b"a-very-secret-key" not in sent
    assert cloudpickle.loads(sent).describe() == one.describe()
    pytest.importorskip("open_clip")
    clip = features.extractor("open_clip", model="RN50", pretrained=None, random_init=True)
    clip.__dict__["_loaded"] = object  # stands for a model
    assert "_loaded" not in cloudpickle.loads(cloudpickle.dumps(clip)).__dict__


# -- neighbors ----------------------------------------------------------------------------------------------


def vectors(n: int, d: int) -> torch.Tensor:
    """Rows of length one, every fifth a copy of another, so that there are ties."""
    rows = torch.from_numpy(numpy_rng(0, "test/ray/knn").normal(size=(n, d)).astype(np.float32))
    rows[::5] = rows[1 : 1 + len(rows[::5])]
    return unit_length(rows)


@pytest.mark.parametrize(("n", "d", "k"), [(2500, 24, 10), (5, 3, 9), (1030, 128, 3)])
@pytest.mark.parametrize("tasks", [2, 64])
def test_neighbors_are_equal(
    cluster: Cluster, n: int, d: int, k: int, tasks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "TASKS", tasks)
    unit = vectors(n, d)
    here, there = all_neighbors(unit, k), all_neighbors(unit, k, cluster)
    assert torch.equal(here[1], there[1])
    assert torch.equal(here[0], there[0])


@pytest.mark.parametrize(("n", "k", "block"), [(700, 10, 64), (130, 50, 32), (7, 9, 2048), (96, 3, 32)])
@pytest.mark.parametrize("tasks", [1, 3, 64])
def test_neighbors_are_equal_where_products_serve_both_sides(
    cluster: Cluster, n: int, k: int, block: int, tasks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WIDE", 8), ("SQUARE", block), ("TASKS", tasks)):
        monkeypatch.setattr(nearest, name, value)
    unit = vectors(n, 8)
    here, there = all_neighbors(unit, k), all_neighbors(unit, k, cluster)
    assert torch.equal(here[1], there[1])
    assert torch.equal(here[0], there[0])


@pytest.mark.parametrize("recall", [0.9, 1.0])
def test_approximate_neighbors_are_equal(cluster: Cluster, recall: float) -> None:
    rng = numpy_rng(0, "test/ray/clusters")
    rows = rng.normal(size=(60, 12))[rng.integers(0, 60, 3000)] + 0.3 * rng.normal(size=(3000, 12))
    unit = unit_length(torch.from_numpy(rows.astype(np.float32)))
    here, there = (approximate_neighbors(unit, 10, recall, 0, c) for c in (None, cluster))
    assert torch.equal(here[1], there[1])
    assert torch.equal(here[0], there[0])


def test_a_graph_made_on_a_cluster_is_found_here(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    present = np.arange(300) % 7 > 0
    table = FeatureTable(np.where(present[:, None], vectors(300, 16).numpy(), 0), present)
    made = knn(table, 6, cache=tmp_path / "there", weight="cosine", cluster=cluster)
    expected = knn(table, 6, cache=tmp_path / "here", weight="cosine")
    assert files(tmp_path / "there") == files(tmp_path / "here")
    for one, other in ((made.col, expected.col), (made.weight, expected.weight)):
        assert torch.equal(one, other)
    monkeypatch.setattr("graphrec.graphs.knn.all_neighbors", lambda *_: pytest.fail("computed again"))
    assert torch.equal(knn(table, 6, cache=tmp_path / "there", weight="cosine").col, made.col)


def test_a_task_whose_worker_dies_is_done_again(cluster: Cluster, tmp_path: Path) -> None:
    log, array = tmp_path / "log", np.arange(12.0).reshape(4, 3)
    found = dict(cluster.map_unordered(partial(on_ray.deadly_sum, str(log)), array, range(4)))
    assert found == {0: 3.0, 1: 12.0, 2: 21.0, 3: 30.0}
    assert not Path(f"/proc/{log.read_text()}").exists(), "it was killed"


def test_neighbors_are_equal_whatever_is_killed(
    cluster: Cluster, killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = vectors(5000, 24)
    here = all_neighbors(unit, 5)
    monkeypatch.setattr(nearest, "_of_range", on_ray.deadly_range)  # workers import it by its name
    there = all_neighbors(unit, 5, cluster)
    assert killed.read_text() == "xx"
    assert torch.equal(here[1], there[1])
    assert torch.equal(here[0], there[0])


def test_an_error_of_a_task_arrives_as_itself(cluster: Cluster) -> None:
    with pytest.raises(ConfigError, match=r"^row \d: found \(4, 3\); expected another; do something$") as one:
        list(cluster.map_unordered(on_ray.refused_sum, np.zeros((4, 3)), range(4)))
    assert type(one.value) is ConfigError
    for _ in range(100):  # nor does what is under way meanwhile bring this process down
        with pytest.raises(ConfigError):
            list(cluster.map_unordered(on_ray.refused_sum, np.zeros((4, 3)), range(4)))


def test_what_is_shared_is_read_in_place(cluster: Cluster) -> None:
    assert dict(cluster.map_unordered(on_ray.writable, np.zeros((4000, 100)), [1, 2])) == {1: False, 2: False}


# -- joining -------------------------------------------------------------------------------------------------


def test_workers_fit_or_it_is_said(cluster: Cluster) -> None:
    assert cluster.max_workers(1.0) == 2
    assert Cluster("local", workers=1).max_workers(1.0) == 1
    assert Counter(Cluster("local").cpus_per_worker(t) for t in (True, False)) == {1.0: 2}, (
        "one thread of torch here"
    )
    assert Cluster("local", cpus=0.5).cpus_per_worker(True) == 0.5
    with pytest.raises(ClusterError, match="64 CPUs and 0 GPUs"):
        cluster.max_workers(64)
    with pytest.raises(ClusterError, match="1 CPUs and 1 GPUs"):
        Cluster("local", gpus=1).max_workers(1)


@pytest.mark.slow
def test_the_command_line_builds_on_a_cluster_of_its_own_and_keeps_quiet(tmp_path: Path) -> None:
    data = shop(texts(30))
    data.save(tmp_path / "shop")
    build = [sys.executable, "-m", "graphrec", "features", "build", tmp_path / "shop", "--store"]
    more = ["--ray", "local", "--set", "ray.workers=2"]
    there, here = (
        subprocess.run(
            [*build, store, *options],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": PATH},
        )
        for store, options in (("there", more), ("here", []))
    )
    assert there.returncode == here.returncode == 0, there.stderr
    assert there.stderr == here.stderr.replace("--store here", "--store there")
    assert there.stdout == here.stdout
    assert files(tmp_path / "there") == files(tmp_path / "here")
