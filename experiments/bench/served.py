"""Serving many items: an index over 10 million, and requests over HTTP at a million.

    python -m experiments.bench.served                    # an index over 10 million items
    python -m experiments.bench.served --http             # requests to a server with a million items

The vectors are made as embeddings tend to be: a mixture of a thousand groups whose sizes fall off like
1/rank, each with its own spread over the dimensions, which themselves matter less and less, and lengths that
vary by a fifth; users lie between two groups that they like. Independent noise would have no neighborhoods
to find. Memory is what the process alone holds (anonymous); pages of mapped files come on top, as long as
nothing else needs their place.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from experiments.bench import measure
from graphrec.core.random import numpy_rng
from graphrec.data import Interactions, Vocabulary
from graphrec.models.base import ContentProjection
from graphrec.serving import Recommender

DIM, USERS, SEEN, K, GROUPS = 64, 100_000, 20, 20, 1000
PORT, RATES = 8733, ("--rate 800", "--rate 1000", "--rate 1200")
WANTED, ASKED = 0.95, 512


def groups() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means ``(GROUPS, DIM)``, spreads of the same shape, and shares of the items ``(GROUPS,)``."""
    rng = numpy_rng(0, "bench/served/groups")
    scale = 1 / np.sqrt(1 + np.arange(DIM) / 8)
    means = rng.standard_normal((GROUPS, DIM)) * scale
    spreads = rng.uniform(0.3, 0.9, (GROUPS, DIM)) * scale
    shares = 1 / np.arange(1, GROUPS + 1)
    return means.astype(np.float32), spreads.astype(np.float32), shares / shares.sum()


def save(path: Path, n_items: int) -> None:
    """Writes a generated recommender."""
    means, spreads, shares = groups()
    items = np.empty((n_items, DIM), dtype=np.float32)
    for start in range(0, n_items, 2**20):
        rng = numpy_rng(0, "bench/served/items", start)
        part = items[start : start + 2**20]
        group = rng.choice(GROUPS, len(part), p=shares)
        part[:] = means[group] + spreads[group] * rng.standard_normal(part.shape, dtype=np.float32)
        part *= rng.lognormal(0, 0.2, (len(part), 1)).astype(np.float32)
    rng = numpy_rng(0, "bench/served/users")
    liked = rng.choice(GROUPS, (2, USERS), p=shares)
    users = (means[liked[0]] + means[liked[1]]) / 2
    users += 0.3 * spreads[liked[0]] * rng.standard_normal(users.shape, dtype=np.float32)
    keys = np.unique(np.repeat(np.arange(USERS), SEEN) * n_items + rng.integers(0, n_items, USERS * SEEN))
    seen = Interactions(keys // n_items, keys % n_items, USERS, n_items, name="seen")
    Recommender(
        Vocabulary([f"U{i:07d}" for i in range(USERS)], "user"),
        Vocabulary([f"P{i:09d}" for i in range(n_items)], "item"),
        users,
        items,
        seen,
        ContentProjection({"text": np.eye(DIM, dtype=np.float32)}, {}),
    ).save(path)


def main() -> None:
    """Prints what building, opening and asking cost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=0, help="default: 10 million; a million for --http")
    parser.add_argument("--http", action="store_true", help="ask over HTTP")
    parser.add_argument("--folder", type=Path, help="where to work; default: a new temporary folder")
    parser.add_argument("--step", choices=["save", "build", "ask", "http"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    n_items = options.items or (1_000_000 if options.http else 10_000_000)
    if options.step:
        {"save": _save, "build": _build, "ask": _ask, "http": _http}[options.step](options.folder, n_items)
        return
    print(measure.machine(), flush=True)
    made = options.folder or Path(tempfile.mkdtemp(prefix="graphrec-served-"))
    try:
        # A process for each, so that memory is that of the step.
        for step in ("save", "build", "http" if options.http else "ask"):
            if step == "save" and (made / "recommender.json").exists():
                continue
            command = [sys.executable, "-m", "experiments.bench.served", "--step", step]
            subprocess.run([*command, "--folder", str(made), "--items", str(n_items)], check=True)
    finally:
        if options.folder is None:
            shutil.rmtree(made)


def _save(folder: Path, n_items: int) -> None:
    began = time.perf_counter()
    save(folder, n_items)
    size = sum(p.stat().st_size for p in folder.iterdir())
    print(f"{n_items:,} items x {DIM}, {USERS:,} users; saved: {size / 2**30:.2f} GiB", end=" ")
    print(f"in {time.perf_counter() - began:.0f} s", flush=True)


def _build(folder: Path, n_items: int) -> None:
    rec = Recommender.load(folder)
    with measure.spent() as spent, _Anonymous() as held:
        f = rec.build_index(folder, recall=WANTED, k=K, similar=False)["recommend"]
    size = sum(p.stat().st_size for p in (folder / "index").iterdir())
    print(f"index built               {spent.seconds:8.0f} s ({spent.cpu:.0f} s of processor time)")
    print(
        f"  memory while building   {held.most / 2**20:8.0f} MiB above {held.before / 2**20:.0f} MiB;",
        end=" ",
    )
    print(f"{spent.peak / 2**20:.0f} MiB with pages of files")
    print(f"  on disk                 {size / 2**30:8.2f} GiB")
    print(f"  {f.lists:,} lists, {f.probes} probed, {f.scanned:.2%} of the items compared with", end="; ")
    print(f"recall@{f.k} {f.recall:.4f} on {f.queries} users not used for choosing", flush=True)


def _ask(folder: Path, n_items: int) -> None:
    before = _held()
    with measure.spent() as loading:
        rec = Recommender.load(folder)
    after = _held()
    print(f"load                      {loading.seconds:8.1f} s (all files' sha256 checked)")
    print(f"  memory after load       {(after[0] - before[0]) / 2**20:8.0f} MiB more, and", end=" ")
    print(f"{(after[1] - before[1]) / 2**20:.0f} MiB of mapped files")
    names = [f"U{i:07d}" for i in numpy_rng(0, "bench/served/asked").choice(USERS, 2000, replace=False)]
    exact: list[np.ndarray] = []
    with measure.spent() as all_items:
        for start in range(0, ASKED, 64):
            exact.append(rec.recommend(names[start : start + 64], K, search="exact")[0])
    near = rec.recommend(names[:ASKED], K)[0]
    pairs = zip(np.concatenate(exact), near, strict=True)
    recall = np.mean([len(set(a) & set(b)) / K for a, b in pairs])
    print(f"recall@{K} of recommend, seen hidden, {ASKED} users {recall:.4f} (wanted {WANTED})")
    rec.recommend(names, K)
    times = []
    for name in names[:500]:
        began = time.perf_counter()
        rec.recommend(name, K)
        times.append(1e3 * (time.perf_counter() - began))
    half, most = np.percentile(times, [50, 99])
    print(f"one user                  {half:8.2f} ms (p99 {most:.2f} ms)")
    for n in (16, 1000):
        taken = measure.milliseconds(lambda n=n: rec.recommend(names[:n], K), repeats=10, warmup=1)
        print(f"{n:5,} users at once        {1e3 * n / taken:8.0f} users/s")
    print(f"exact, 64 users at once   {ASKED / all_items.seconds:8.0f} users/s")
    asked = _held()
    print(f"memory after asking       {(asked[0] - before[0]) / 2**20:8.0f} MiB more, and", end=" ")
    print(f"{(asked[1] - before[1]) / 2**20:.0f} MiB of mapped files", flush=True)


def _http(folder: Path, n_items: int) -> None:
    server = [sys.executable, "-m", "graphrec", "serve", str(folder), "--read-only", "--port", str(PORT)]
    began = time.perf_counter()
    with subprocess.Popen(server, stderr=subprocess.PIPE, text=True) as process:
        try:
            while "http://" not in (line := process.stderr.readline()):  # type: ignore[union-attr]
                if not line:
                    raise SystemExit("the server did not start")
            print(f"server up after           {time.perf_counter() - began:8.1f} s; {_http_line()}")
            print(
                "requests of one user, top 10   answered/s   p50 ms   p99 ms  server, client cores  not 200"
            )
            for options in ("--connections 1", "--connections 32", "--connections 128", *RATES):
                before = _processor(process.pid)
                load = [sys.executable, "-m", "experiments.bench.load", str(PORT), *options.split()]
                done = subprocess.run(load, stdout=subprocess.PIPE, text=True, check=True)
                found = json.loads(done.stdout)
                cores = (_processor(process.pid) - before) / found["took"]
                print(
                    f"{options.removeprefix('--'):28} {found['per_second']:12.0f} {found['p50_ms']:8.1f} "
                    f"{found['p99_ms']:8.1f} {cores:8.2f}, {found['client_cores']:.2f} {found['wrong']:15}",
                    flush=True,
                )
            anonymous, mapped = _held(process.pid)
            held = f"{anonymous / 2**20:8.0f} MiB, and {mapped / 2**20:.0f} MiB of files"
            print(f"server's memory           {held}")
        finally:
            process.send_signal(signal.SIGINT)


def _http_line() -> str:
    """Which of uvicorn's optional parts are there."""
    found = {name: importlib.util.find_spec(name) is not None for name in ("httptools", "uvloop")}
    return ", ".join(f"{name} {'installed' if there else 'not installed'}" for name, there in found.items())


def _processor(process: int) -> float:
    """Processor time that a process has used, in seconds; Linux."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _held(process: int | str = "self") -> tuple[int, int]:
    """Anonymous memory of a process and its resident pages of files, in bytes; Linux."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss")}
    return found["RssAnon"], found["RssFile"]


class _Anonymous:
    """Samples this process's anonymous memory while a block runs."""

    def __enter__(self) -> _Anonymous:
        import threading

        self.before = _held()[0]
        self.most, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            self.most = max(self.most, _held()[0] - self.before)

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


if __name__ == "__main__":
    main()
