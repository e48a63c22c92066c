"""What the bench scripts share: median times, peak memory, and a line about the machine."""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GIB = 2**30
SQUARE = 2048  # rows of the matrices whose product is a floor


def milliseconds(work: Callable[[], object], repeats: int = 30, warmup: int = 3) -> float:
    """Median time of one call."""
    for _ in range(warmup):
        work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


@dataclass
class Spent:
    """What a block of code took.

    Attributes:
        seconds: wall time.
        cpu: processor time of this process, all threads, in seconds.
        extra: peak resident memory above what was resident before, in bytes.
        peak: peak resident memory, in bytes.
    """

    seconds: float = 0.0
    cpu: float = 0.0
    extra: int = 0
    peak: int = 0


@contextmanager
def spent() -> Iterator[Spent]:
    """Measures the block; the numbers are there when it is left.

    Memory is the kernel's high-water mark of resident pages, reset at the beginning (Linux; elsewhere it
    stays 0). Pages of mapped files count while they are resident.
    """
    _return_freed()
    result, before = Spent(), _memory("VmRSS")
    _reset_peak()
    cpu, began = time.process_time(), time.perf_counter()
    try:
        yield result
    finally:
        result.seconds, result.cpu = time.perf_counter() - began, time.process_time() - cpu
        result.peak = _memory("VmHWM")
        result.extra = max(0, result.peak - before)


def training_step(model: Any, batch_size: int) -> Callable[[Any], None]:
    """What a training does with a batch: losses, gradients and an update of the model's parameters."""
    import torch

    import graphrec as gr

    optimizer = model.optimizer(gr.TrainConfig(batch_size=batch_size))

    def step(batch: Any) -> None:
        optimizer.zero_grad()
        torch.stack(list(model(batch).values())).sum().backward()
        optimizer.step()

    return step


def steps_parser(description: str | None) -> argparse.ArgumentParser:
    """The options of scripts that time steps on generated data."""
    import torch

    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch-size", type=int, default=2048)
    return parser


def processor_seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Processor time of one call, after one that is not counted."""
    work()
    with spent() as used:
        for _ in range(repeats):
            work()
    return used.cpu / repeats


def matrix_product(repeats: int = 5) -> tuple[float, Spent]:
    """Floating-point operations of some products of square float32 matrices, and what they took."""
    import torch

    square = torch.rand(SQUARE, SQUARE)
    square @ square
    with spent() as used:
        for _ in range(repeats):
            square @ square
    return 2 * SQUARE**3 * repeats, used


def peak() -> int:
    """Peak resident memory of this process so far, in bytes."""
    return _memory("VmHWM")


def machine() -> str:
    """Processor, cores, torch's threads and the load when the script began, in one line."""
    import torch

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return (
        f"{model}, {os.cpu_count()} cores, torch {torch.__version__} with {torch.get_num_threads()} threads, "
        f"load {load:.1f}"
    )


def _memory(key: str) -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    lines = (line.split() for line in status.read_text().splitlines() if line.startswith(key + ":"))
    return next((int(parts[1]) * 1024 for parts in lines), 0)


def _return_freed() -> None:
    """Gives freed memory back to the system, as far as the C library can; used again, it would not count."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _reset_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
