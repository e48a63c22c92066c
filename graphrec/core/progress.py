"""Output: notes on stderr, silence of other libraries, the progress of a training, TensorBoard scalars."""

from __future__ import annotations

import ctypes
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from graphrec.core.errors import ConfigError, missing_dependency

SECONDS_BETWEEN_LINES = 30.0
"""Where stderr is no terminal."""
SECONDS_BETWEEN_UPDATES = 0.5
"""In a notebook."""
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
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
    return CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


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


class EpochProgress:
    """The progress of a training in words; this class shows nothing, others derive from it.

    Args:
        total: greatest number of epochs.
        start: number of epochs trained before.
        metric: name of the selected metric; None if it has none.
        patience: number of validations without a better one that training goes on after; None is no limit.
    """

    def __init__(
        self, total: int, start: int, metric: str | None = None, patience: int | None = None
    ) -> None:
        self.total = total
        self.start = start
        self.metric = metric
        self.patience = patience
        self.began = time.monotonic()

    def on_step(self, epoch: int, step: int) -> None:
        """Is called after each batch; both count from 1."""

    def on_epoch(self, record: Mapping[str, float], best: float | None, best_epoch: int, misses: int) -> None:
        """Is called after each epoch.

        Args:
            record: of the epoch.
            best: the selected metric of the best epoch, or None.
            best_epoch: that epoch.
            misses: number of validations since then.
        """

    def describe(self, record: Mapping[str, float], best: float | None, best_epoch: int, misses: int) -> str:
        """The loss, the best epoch and how much of the patience is used up; see :meth:`on_epoch`."""
        text = f"loss {sum(v for k, v in record.items() if k.startswith('loss/')):.4f}"
        if best is not None:
            name = f"{self.metric} " if self.metric else ""
            text += f", best {name}{best:.4f} at epoch {best_epoch}"
            if self.patience is not None:
                text += f" ({misses} of {self.patience} validations without a better one)"
        return text

    def seconds_left(self, epoch: int) -> float:
        """Seconds until the last epoch at the pace so far; early stopping may end the training before."""
        done = max(1, epoch - self.start)
        return (time.monotonic() - self.began) / done * (self.total - epoch)


class _Bar(EpochProgress):
    """A rich progress bar on stderr."""

    def __init__(self, bar: Any, **facts: Any) -> None:
        super().__init__(**facts)
        self.bar = bar
        self.task = bar.add_task("", total=self.total, completed=self.start)

    def on_epoch(self, record: Mapping[str, float], best: float | None, best_epoch: int, misses: int) -> None:
        text = self.describe(record, best, best_epoch, misses)
        self.bar.update(self.task, completed=int(record["epoch"]), description=text)


class _Lines(EpochProgress):
    """A line on stderr every :data:`SECONDS_BETWEEN_LINES`, also within an epoch."""

    def __init__(self, **facts: Any) -> None:
        super().__init__(**facts)
        self.last = self.began
        self.described = ""

    def on_step(self, epoch: int, step: int) -> None:
        if self._is_due():
            seconds = duration(time.monotonic() - self.began)
            after = f"; {self.described}" if self.described else ""
            print_note(f"epoch {epoch:,} of at most {self.total:,}, step {step:,}, {seconds}{after}")

    def on_epoch(self, record: Mapping[str, float], best: float | None, best_epoch: int, misses: int) -> None:
        self.described = self.describe(record, best, best_epoch, misses)
        if self._is_due():
            epoch = int(record["epoch"])
            left = self.seconds_left(epoch)
            print_note(
                f"epoch {epoch:,} of at most {self.total:,}, {duration(time.monotonic() - self.began)}, at "
                f"most {duration(left)} left; {self.described}"
            )

    def _is_due(self) -> bool:
        now = time.monotonic()
        if now - self.last < SECONDS_BETWEEN_LINES:
            return False
        self.last = now
        return True


class _Notebook(EpochProgress):
    """One line below the cell of a notebook, which is replaced."""

    def __init__(self, **facts: Any) -> None:
        super().__init__(**facts)
        from IPython.display import display

        self.shown_at = 0.0
        self.text = "nothing was trained"
        self.handle: Any = display(_Text("training ..."), display_id=True)

    def on_epoch(self, record: Mapping[str, float], best: float | None, best_epoch: int, misses: int) -> None:
        epoch = int(record["epoch"])
        text = self.describe(record, best, best_epoch, misses)
        left = f", at most {duration(self.seconds_left(epoch))} left" if epoch < self.total else ""
        self.text = f"epoch {epoch:,} of at most {self.total:,}{left}; {text}"
        if time.monotonic() - self.shown_at > SECONDS_BETWEEN_UPDATES:
            self.shown_at = time.monotonic()
            self.handle.update(_Text(self.text))

    def close(self) -> None:
        """Shows the last epoch."""
        self.handle.update(_Text(self.text))


class _Text:
    """Text that a notebook shows without quotes."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


@contextmanager
def epoch_progress(
    shown: bool | None, total: int, start: int, metric: str | None = None, patience: int | None = None
) -> Iterator[EpochProgress]:
    """Shows the progress of a training: a bar on a terminal, a line in a notebook, else lines on stderr.

    Args:
        shown: None chooses as above; True is a bar anywhere; False shows nothing.
        total: see :class:`EpochProgress`, as the others.
        start: likewise.
        metric: likewise.
        patience: likewise.
    """
    facts: dict[str, Any] = {"total": total, "start": start, "metric": metric, "patience": patience}
    if shown is False:
        yield EpochProgress(**facts)
    elif shown or sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        with Progress(
            TextColumn("epoch"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("{task.description}"), console=Console(stderr=True),
        ) as bar:  # fmt: skip
            yield _Bar(bar, **facts)
    elif in_notebook():
        notebook = _Notebook(**facts)
        try:
            yield notebook
        finally:
            notebook.close()
    else:
        yield _Lines(**facts)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return type(shell).__name__ == "ZMQInteractiveShell"


def duration(seconds: float) -> str:
    """Such as ``8 s``, ``4 min 5 s`` or ``2 h 7 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {left} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


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
