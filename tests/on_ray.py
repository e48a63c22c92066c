"""Extractors and tasks that fail, differ or die in a worker, and a run that can be killed as a whole."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from extraction import Hashing, shop, texts

from graphrec.core.errors import ConfigError
from graphrec.core.ray import Cluster
from graphrec.features import FeatureStore
from graphrec.features.extract.extraction import extract


class Slow(Hashing):
    """Leaves its process id and how many texts it got beside, and takes its time."""

    def __init__(self, log: Path, seconds: float = 0.2) -> None:
        super().__init__()
        self.log, self.seconds = log, seconds

    def encode(self, batch: list[str]) -> np.ndarray:
        with self.log.open("a") as file:
            file.write(f"{os.getpid()} {len(batch)}\n")
        time.sleep(self.seconds)
        return super().encode(batch)


class Held(Hashing):
    """Leaves its process id and how many texts it got beside; from the given batch on, it leaves a mark and
    waits to be killed, every time or once.
    """

    def __init__(self, log: Path, batches: int, once: bool) -> None:
        super().__init__()
        self.log, self.mark, self.batches, self.once = log, log.with_suffix(".held"), batches, once

    def encode(self, batch: list[str]) -> np.ndarray:
        with self.log.open("a") as file:
            file.write(f"{os.getpid()} {len(batch)}\n")
        if len(self.log.read_text().splitlines()) >= self.batches:
            try:
                with self.mark.open("x") as file:
                    file.write(str(os.getpid()))
                first = True
            except FileExistsError:
                first = False
            while first or not self.once:
                time.sleep(1)
        return super().encode(batch)


class SlowFirst(Hashing):
    """On a cluster, texts that say so wait until another worker has begun some batches of others."""

    def __init__(self, log: Path, batches: int) -> None:
        super().__init__()
        self.log, self.batches, self.home = log, batches, os.getpid()

    def encode(self, batch: list[str]) -> np.ndarray:
        if os.getpid() != self.home and not batch[0].startswith("slow"):
            with self.log.open("a") as file:
                file.write("x")
        while os.getpid() != self.home and batch[0].startswith("slow"):
            if self.log.exists() and self.log.stat().st_size >= self.batches:
                break
            time.sleep(0.01)
        return super().encode(batch)


class Deadly(Hashing):
    """Kills its process when it reads a certain word, as a crashing library would."""

    def __init__(self, log: Path, word: str, times: int) -> None:
        super().__init__()
        self.log, self.word, self.times = log, word, times

    def encode(self, batch: list[str]) -> np.ndarray:
        if any(self.word in text.split() for text in batch):
            with self.log.open("a") as file:
                file.write("x")
            if self.log.stat().st_size <= self.times:
                os.kill(os.getpid(), 9)
        return super().encode(batch)


class Refusing(Hashing):
    """Finds fault with a text."""

    def __init__(self, error: type[Exception] = ConfigError) -> None:
        super().__init__()
        self.error = error

    def encode(self, batch: list[str]) -> np.ndarray:
        if any(text.endswith("n17") for text in batch):
            raise self.error("n17: found a wrong text; expected another; write one")
        return super().encode(batch)


class MachineDependent(Hashing):
    """Describes itself otherwise in other processes, as one with other packages would."""

    def __init__(self) -> None:
        super().__init__()
        self.process = os.getpid()

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "version": "1" if os.getpid() == self.process else "2"}


class Unsendable(Hashing):
    """Holds what cannot be sent to another process."""

    def __init__(self) -> None:
        super().__init__()
        self.file = sys.stdout


def deadly_range(k: int, block: Any, unit: Any, part: tuple[int, int]) -> Any:
    """The neighbors of some rows; the first two processes that get rows from 2048 on die with them."""
    log = Path(os.environ["KILLED"])
    if part[0] == 2048 and (not log.exists() or log.stat().st_size < 2):
        with log.open("a") as file:
            file.write("x")
        os.kill(os.getpid(), 9)
    from graphrec.graphs import nearest  # torch, which takes seconds to import, and most workers need none

    return nearest._search(unit[part[0] : part[1]], unit, k, block)


def deadly_sum(log: str, shared: np.ndarray, part: int) -> float:
    """The sum of one row; the first attempt at row 2 dies."""
    if part == 2 and not Path(log).exists():
        Path(log).write_text(str(os.getpid()))
        os.kill(os.getpid(), 9)
    return float(shared[part].sum())


def refused_sum(shared: np.ndarray, part: int) -> float:
    """An error of the user's."""
    raise ConfigError(f"row {part}: found {shared.shape}; expected another; do something")


def writable(shared: np.ndarray, part: int) -> bool:
    """Whether the shared array is a copy of one's own."""
    return bool(shared.flags.writeable)


if __name__ == "__main__":
    extract(
        shop(texts(48)), "text", Held(Path(sys.argv[2]), 7, once=False), FeatureStore(sys.argv[1]),
        batch_size=4, shard_size=4, cluster=Cluster("local", workers=2),
    )  # fmt: skip
