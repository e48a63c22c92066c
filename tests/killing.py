"""Extractions that are killed at random moments, and a naive writer under the same kills.

Each extraction is a forked process, which counts its moments: between the pieces of a file, around a rename,
while a finished shard is checked, while a batch is encoded. Half of the kills strike at a random one of them,
half come from outside some time after it. Run as a script it prints a summary as JSON.
"""

from __future__ import annotations

import builtins
import hashlib
import json
import mmap
import os
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from extraction import catalog, files, texts
from PIL import Image

from graphrec.core import files as core_files
from graphrec.core.errors import FeatureError
from graphrec.core.random import numpy_rng
from graphrec.data import Content, Dataset
from graphrec.features import FeatureStore, shards
from graphrec.features.extract.extraction import extract

N, ROWS, DIM = 48, 6, 2048
FIELDS = ("image", "text")
STAGES = ("start", "check", "encode", "array", "sidecar", "manifest", "rename")
WRITING = ("array", "sidecar", "manifest", "rename")
PIECES = 4
PAUSE = 0.001  # seconds at each moment of a process that is killed from outside
SPAN = 70  # most moments that a process gets


def shop(root: Path) -> Dataset:
    """Items with a picture and a text; one picture is broken, one is missing, one text is missing."""
    root.mkdir(parents=True, exist_ok=True)
    for row in range(N):
        Image.new("RGB", (8, 8), (row, 7, 9)).save(root / f"{row}.png")
    (root / "5.png").write_bytes(b"not a picture")
    pictures: list[str | None] = [f"{row}.png" for row in range(N)]
    written = texts(N)
    pictures[20] = written[30] = None
    content = {"image": Content("image", pictures, root), "text": Content("text", written)}
    return catalog([f"i{row}" for row in range(N)], **content)


class Moments:
    """Counts the moments of a process, tells its parent the stage, and may kill it.

    Args:
        last: the moment at which the process kills itself; None: never.
        pause: seconds to wait at each.
    """

    def __init__(self, last: int | None = None, pause: float = 0.0) -> None:
        self.last, self.pause, self.count = last, pause, 0
        self.shared = mmap.mmap(-1, 9)  # the stage, and the count

    def __call__(self, stage: str) -> None:
        self.count += 1
        self.shared[0] = STAGES.index(stage)
        self.shared[1:] = self.count.to_bytes(8, "big")
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.pause:
            time.sleep(self.pause)

    @property
    def stage(self) -> str:
        return STAGES[self.shared[0]]

    def kill(self, process: int, after: int) -> int:
        """Kills the process once it has counted so many moments, unless it ends before; its exit code."""
        while int.from_bytes(self.shared[1:], "big") < after:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(PAUSE / 10)
        os.kill(process, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


class Pieces:
    """A file opened for writing that reaches the disk piece by piece."""

    def __init__(self, path: Path, moments: Moments) -> None:
        self.raw = builtins.open(path, "wb")  # noqa: SIM115
        self.moments, self.name = moments, str(path)
        kinds = {".npy": "array", "manifest": "manifest", ".json": "sidecar"}
        self.stage = next(stage for part, stage in kinds.items() if part in path.name)
        self.flush, self.fileno = self.raw.flush, self.raw.fileno

    def __enter__(self) -> Pieces:
        return self

    def __exit__(self, *_: object) -> None:
        self.raw.close()

    def write(self, data: bytes) -> int:
        step = -(-len(data) // PIECES)
        for start in range(0, len(data), max(1, step)):
            self.moments(self.stage)
            self.raw.write(data[start : start + step])
            self.raw.flush()
        self.moments(self.stage)
        return len(data)


class Sketch:
    """A long vector from the digest of a text or picture; logs the rows it encodes."""

    dim = DIM

    def __init__(self, kind: str, log: Path | None = None, moments: Moments | None = None) -> None:
        self.kind: Any = kind
        self.name, self.log, self.moments = f"sketch-{kind}", log, moments or Moments()

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}

    def encode(self, batch: list[Any]) -> np.ndarray:
        self.moments("encode")
        told = [
            (int(one.rpartition(" n")[2]), one.encode()) if self.kind == "text"
            else (one.getpixel((0, 0))[0], one.tobytes())
            for one in batch
        ]  # fmt: skip
        if self.log is not None:
            with builtins.open(self.log, "a") as file:
                file.write("".join(f"{self.kind} {row}\n" for row, _ in told))
        digests = b"".join(hashlib.sha256(data).digest() for _, data in told)
        return np.tile(np.frombuffer(digests, dtype="<u4").reshape(len(batch), 8), DIM // 8) / 2**32


Work = Callable[[Dataset, str, Sketch, Path, int], object]


def ours(data: Dataset, kind: str, sketch: Sketch, root: Path, workers: int) -> None:
    """The extraction that is tested."""
    extract(
        data, kind, sketch, FeatureStore(root), batch_size=4, shard_size=ROWS, workers=workers, max_bad=0.1,
        progress=False,
    )  # fmt: skip


def naive(data: Dataset, kind: str, sketch: Sketch, root: Path, workers: int) -> None:
    """What must not survive the kills: it writes under the final name, and what exists counts as done."""
    content = data.content[kind]
    (root / kind).mkdir(parents=True, exist_ok=True)
    for number in range(N // ROWS):
        path = root / kind / f"shard-{number:05d}.npy"
        if path.exists():
            continue
        values = np.zeros((ROWS, DIM), np.float32)
        for row in range(number * ROWS, (number + 1) * ROWS):
            value = content.values[row]
            if value is not None and (kind, row) != ("image", 5):
                one = value if kind == "text" else Image.open(Path(content.root or "") / value).convert("RGB")
                values[row - number * ROWS] = sketch.encode([one])[0]
        with Pieces(path, sketch.moments) as file:
            np.lib.format.write_array(file, values, allow_pickle=False)  # type: ignore[arg-type]


def instrument(moments: Moments) -> None:
    """Makes this process (a child, about to work) count its moments."""
    rename, finished = os.replace, shards.finished_shard

    def replace(source: Any, target: Any) -> None:
        moments("rename")
        rename(source, target)
        moments("rename")

    def check(*given: Any) -> Any:
        moments("check")
        return finished(*given)

    def opened(path: Any, mode: str = "r", *more: Any) -> Any:
        return Pieces(Path(path), moments) if mode == "wb" else builtins.open(path, mode, *more)

    os.replace, shards.finished_shard = replace, check
    core_files.open = opened  # type: ignore[attr-defined]


def begin(
    work: Work, data: Dataset, root: Path, log: Path, workers: int, order: list[str], moments: Moments
) -> int:
    """Forks a process that works on the fields in this order; returns its process id."""
    process = os.fork()
    if process:
        return process
    try:
        instrument(moments)
        for kind in order:
            work(data, kind, Sketch(kind, log, moments), root, workers)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    os._exit(1)


def encoded(log: Path) -> Counter[tuple[str, int]]:
    """How often each row was encoded."""
    lines = log.read_text().split() if log.exists() else []
    return Counter((kind, int(row)) for kind, row in zip(lines[::2], lines[1::2], strict=True))


def whole_shards(root: Path, reference: dict[str, bytes]) -> tuple[set[str], list[str]]:
    """The finished shards (values and sidecar), and what stands under a final name but is not whole."""
    found = {name: data for name, data in files(root).items() if not name.endswith(".tmp")}
    corrupt = [f"{root}/{name} is not whole" for name, data in found.items() if reference.get(name) != data]
    pairs = {name.removesuffix(".npy") for name in found if name.endswith(".npy")}
    return {name for name in pairs if f"{name}.json" in found}, corrupt


def examine(root: Path, sha256: dict[str, str]) -> list[str]:
    """What a reader would be served wrongly after a kill, and what ``verify`` says beside the expected."""
    store, wrong = FeatureStore(root), []
    try:
        offered = {table.manifest["field"]: table.open() for table in store.tables()}
    except FeatureError as cause:
        return [f"{root}: a table that is not whole is offered: {cause}"]
    for kind, table in offered.items():
        if table.compute_sha256() != sha256[kind]:
            wrong.append(f"{root}: the {kind} table that is served is not the whole one")
    said = store.verify()
    begun = [kind for kind in FIELDS if (root / kind).is_dir() and any((root / kind).iterdir())]
    unfinished = [kind for kind in begun if kind not in offered]
    expected = [line for line in said if "did not finish" in line or "left behind by a killed writer" in line]
    if said != expected or not all(any(f"/{kind}/" in line for line in said) for kind in unfinished):
        wrong.append(f"{root}: unfinished {unfinished}, verify says {said}")
    return wrong


@dataclass
class Summary:
    """What a campaign of kills came to.

    Attributes:
        kills: processes killed before they had finished.
        stages: kills by what the process was doing.
        temporaries: kills that left a temporary file.
        unpaired: kills that left a shard's values without their sidecar.
        stores: caches taken from nothing to the end.
        lost: most rows of one kill that had been encoded and were not yet kept.
        redone: rows encoded again although their shard was whole.
        corrupt: files that differ from an uninterrupted run's after the last resume.
        problems: whatever else went wrong, in words.
    """

    kills: int = 0
    stages: dict[str, int] = field(default_factory=dict)
    temporaries: int = 0
    unpaired: int = 0
    stores: int = 0
    lost: int = 0
    redone: int = 0
    corrupt: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def writing(self) -> int:
        """Kills in the middle of writing."""
        return sum(self.stages.get(stage, 0) for stage in WRITING)


def campaign(place: Path, work: Work, kills: int, workers: int, seed: int = 0) -> Summary:
    """Kills extractions until there were as many kills as asked, each store to its end.

    Args:
        place: an empty directory.
        work: the extraction.
        kills: how many.
        workers: its reading threads.
        seed: of the moments.
    """
    data, result, rng = (
        shop(place / "pictures"),
        Summary(),
        numpy_rng(seed, f"kills/{work.__name__}/{workers}"),
    )
    for kind in FIELDS:
        work(data, kind, Sketch(kind), place / "whole", workers)
    reference = files(place / "whole")
    sha256 = {t.manifest["field"]: t.manifest["sha256"] for t in FeatureStore(place / "whole").tables()}
    while result.kills < kills:
        root = place / f"store-{result.stores}"
        ended = False
        while not ended:
            before, _ = whole_shards(root, reference)
            log = place / "log"
            log.unlink(missing_ok=True)
            left = result.kills < kills
            outside = left and bool(rng.random() < 0.5)
            last = int(rng.integers(1, SPAN)) if left and not outside else None
            moments = Moments(last, PAUSE if outside else 0.0)
            order = [str(kind) for kind in rng.permutation(FIELDS)]
            process = begin(work, data, root, log, workers, order, moments)
            if outside:
                code = moments.kill(process, int(rng.integers(0, SPAN)))
            else:
                code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            after, corrupt = whole_shards(root, reference)
            made = encoded(log)
            ended = code != -signal.SIGKILL
            if work is ours:
                result.problems += corrupt + [f"{root}: lost {name}" for name in sorted(before - after)]
                kept = {(kind, row): _shard(reference, kind, row) for kind, row in made}
                result.redone += sum(n for row, n in made.items() if kept[row] in before)
                result.lost = max(result.lost, sum(n for row, n in made.items() if kept[row] not in after))
                result.problems += examine(root, sha256)
            if not ended:
                result.kills += 1
                result.stages[moments.stage] = result.stages.get(moments.stage, 0) + 1
                result.temporaries += any(root.rglob("*.tmp"))
                values = {path.with_suffix("") for path in root.rglob("shard-*.npy")}
                result.unpaired += bool(values - {p.with_suffix("") for p in root.rglob("shard-*.json")})
            elif code:
                result.problems.append(f"{root}: a resumed extraction ended with status {code}")
        final = files(root)
        strays = {name for name in final if name.endswith(".tmp")}
        result.problems += [f"{root}: left behind {name}" for name in sorted(strays)]
        result.corrupt += sum(
            final.get(name) != reference.get(name) for name in {*final, *reference} - strays
        )
        result.stores += 1
    return result


def _shard(reference: dict[str, bytes], kind: str, row: int) -> str:
    number = row // ROWS
    name = next(name for name in reference if name.startswith(f"{kind}/") and f"shard-{number:05d}." in name)
    return name.rpartition(".")[0]


def crowd(place: Path, processes: int, victims: int, seed: int) -> dict[str, Any]:
    """Several processes extract the same two fields into one store at once, and some are killed.

    Args:
        place: an empty directory.
        processes: how many.
        victims: how many of them are killed, after random moments.
        seed: of these moments.
    """
    data, rng = shop(place / "pictures"), numpy_rng(seed, "crowd")
    for kind in FIELDS:
        ours(data, kind, Sketch(kind), place / "whole", 1)
    logs = [place / f"log-{n}" for n in range(processes)]
    orders = [[str(kind) for kind in rng.permutation(FIELDS)] for _ in logs]
    pause = PAUSE if victims else 0.0
    counts = [Moments(None, pause) for _ in logs]
    children = [
        begin(ours, data, place / "store", log, 1, order, moments)
        for log, order, moments in zip(logs, orders, counts, strict=True)
    ]
    # Processes that wait for the lock of a field count none; a kill waits until its turn has come.
    codes = [
        moments.kill(child, int(rng.integers(1, SPAN // 2)))
        for child, moments in zip(children[:victims], counts, strict=False)
    ]
    codes += [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children[victims:]]
    made = sum((encoded(log) for log in logs), Counter())
    return {
        "codes": codes,
        "rows": len(made),
        "encoded": made.total(),
        "equal": files(place / "store") == files(place / "whole"),
        "verify": FeatureStore(place / "store").verify(),
    }


def last_moments(place: Path) -> dict[str, Any]:
    """Kills the last step, when all shards are there and the manifest is not, at every moment it has.

    Args:
        place: an empty directory.
    """
    data = shop(place / "pictures")
    ours(data, "text", Sketch("text"), place / "whole", 1)
    reference = files(place / "whole")
    sha256 = {t.manifest["field"]: t.manifest["sha256"] for t in FeatureStore(place / "whole").tables()}
    shutil.copytree(place / "whole", place / "store")
    stages, problems, log, code = [], [], place / "log", -signal.SIGKILL
    while code == -signal.SIGKILL:
        for manifest in (place / "store").rglob(shards.MANIFEST):
            manifest.unlink()
        moments = Moments(len(stages) + 1)
        process = begin(ours, data, place / "store", log, 1, ["text"], moments)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        problems += examine(place / "store", sha256) + whole_shards(place / "store", reference)[1]
        stages.append(moments.stage)
    return {
        "stages": stages[:-1],
        "code": code,
        "encoded": encoded(log).total(),
        "equal": files(place / "store") == reference,
        "problems": problems,
    }


def main() -> None:
    """``killing.py PLACE KILLS NAIVE_KILLS``: campaigns with 1 and 4 workers, crowds of eight, the end."""
    place, kills, naive_kills = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    summaries = {
        f"{work.__name__} {workers}": asdict(
            campaign(place / f"{work.__name__}-{workers}", work, n, workers, 0)
        )
        for work, n in ((ours, kills), (naive, naive_kills))
        for workers in (1, 4)
    }
    crowds = {str(victims): crowd(place / f"crowd-{victims}", 8, victims, 0) for victims in (0, 4)}
    print(json.dumps({"campaigns": summaries, "crowds": crowds, "end": last_moments(place / "end")}))


if __name__ == "__main__":
    main()
