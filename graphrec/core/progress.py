"""Progress output: notes on stderr, a progress bar, TensorBoard scalars."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphrec.core.errors import ConfigError, missing_dependency


def print_note(*parts: object) -> None:
    """Prints one line to stderr, so that results on stdout can be piped.

    With several processes, only the first one prints.
    """
    if os.environ.get("RANK", "0") == "0":
        print(*parts, file=sys.stderr, flush=True)


class ProgressBar:
    """A rich progress bar with the last loss and the best metric; hidden when stderr is not a terminal."""

    def __init__(self, shown: bool | None, total: int, start: int) -> None:
        self.shown = shown if shown is not None else sys.stderr.isatty()
        self.total, self.start = total, start

    def __enter__(self) -> ProgressBar:
        if self.shown:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            self.bar = Progress(
                TextColumn("epoch"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                TextColumn("{task.description}"), console=Console(stderr=True),
            )  # fmt: skip
            self.bar.start()
            self.task = self.bar.add_task("", total=self.total, completed=self.start)
        return self

    def __call__(self, record: Mapping[str, float], best: float | None, best_epoch: int) -> None:
        """Shows one epoch's record and the best validation so far."""
        if self.shown:
            loss = sum(v for k, v in record.items() if k.startswith("loss/"))
            text = f"loss {loss:.4f}" + (f"  best {best:.4f} at {best_epoch}" if best is not None else "")
            self.bar.update(self.task, completed=int(record["epoch"]), description=text)

    def __exit__(self, *_: object) -> None:
        if self.shown:
            self.bar.stop()


class TensorBoard:
    """Writes each epoch's record as TensorBoard scalars, if enabled."""

    def __init__(self, wanted: bool, out: Path | None) -> None:
        self.writer: Any = None
        if wanted:
            if out is None:
                raise ConfigError("tensorboard=True needs a run directory; give the Trainer an out=")
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as cause:
                raise missing_dependency("tensorboard", "track") from cause
            self.writer = SummaryWriter(str(out / "tensorboard"))

    def __enter__(self) -> TensorBoard:
        return self

    def __call__(self, record: Mapping[str, float]) -> None:
        """Writes one epoch's record."""
        if self.writer is not None:
            for name, value in record.items():
                if name != "epoch":
                    self.writer.add_scalar(name, value, int(record["epoch"]))
            self.writer.flush()

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()
