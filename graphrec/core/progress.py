"""Output: notes on stderr, silence of other libraries, a progress bar, TensorBoard scalars."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from graphrec.core.errors import ConfigError, missing_dependency

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0 and C1, marks and overrides of the direction of writing, line and paragraph separators, surrogates."""


def print_note(*parts: object) -> None:
    """Prints one line to stderr, so that results on stdout can be piped.

    With several processes, only the first one prints.
    """
    if os.environ.get("RANK", "0") == "0":
        print(*(printable_lines(str(part)) for part in parts), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """The text with control characters and lone surrogates escaped, so that a terminal shows it safely.

    Characters that turn the direction of writing are control characters, too: they can make a name look like
    another.
    """
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def printable_lines(text: str) -> str:
    """Like :func:`printable`, but keeps line breaks."""
    return "\n".join(map(printable, text.split("\n")))


@contextmanager
def silenced(descriptor: int) -> Iterator[None]:
    """Redirects stdout (1) or stderr (2) to null, for libraries that print past Python."""
    flush = ctypes.CDLL(None).fflush if os.name == "posix" else lambda _: None
    try:
        copy = os.dup(descriptor)
    except OSError:  # the stream is closed
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    flush(None)
    try:
        os.dup2(null, descriptor)
        yield
    finally:
        flush(None)
        os.dup2(copy, descriptor)
        os.close(copy)
        os.close(null)


def track(steps: range, description: str, shown: bool) -> Iterable[int]:
    """Iterates over the steps, under a rich progress bar if ``shown`` and stderr is a terminal."""
    if not shown or not sys.stderr.isatty():
        return steps
    from rich.console import Console
    from rich.progress import track as rich_track

    return rich_track(steps, description, transient=True, console=Console(stderr=True))


@contextmanager
def progress_bar(
    shown: bool | None, total: int, start: int
) -> Iterator[Callable[[Mapping[str, float], float | None, int], None]]:
    """A rich progress bar with the last loss and the best metric.

    Args:
        shown: None shows it if stderr is a terminal.
        total: number of epochs.
        start: number of epochs trained before.

    Yields:
        A function that shows an epoch's record, and the best validation so far with its epoch.
    """
    if not (sys.stderr.isatty() if shown is None else shown):
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("epoch"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.description}"), console=Console(stderr=True),
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=total, completed=start)

        def show(record: Mapping[str, float], best: float | None, best_epoch: int) -> None:
            loss = sum(v for k, v in record.items() if k.startswith("loss/"))
            text = f"loss {loss:.4f}" + (f"  best {best:.4f} at {best_epoch}" if best is not None else "")
            bar.update(task, completed=int(record["epoch"]), description=text)

        yield show


@contextmanager
def tensorboard(enabled: bool, out: Path | None) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Yields a function that writes an epoch's record as TensorBoard scalars, if enabled.

    Raises:
        ConfigError: there is no run directory to write to.
        MissingDependencyError: tensorboard is not installed (extra ``track``).
    """
    if not enabled:
        yield lambda _: None
        return
    if out is None:
        raise ConfigError("tensorboard=True needs a run directory; give the Trainer an out=")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as cause:
        raise missing_dependency("tensorboard", "track") from cause

    with SummaryWriter(str(out / "tensorboard")) as writer:

        def write(record: Mapping[str, float]) -> None:
            for name, value in record.items():
                if name != "epoch":
                    writer.add_scalar(name, value, int(record["epoch"]))
            writer.flush()

        yield write
