"""Runs one command in several processes with torch's launcher; docs/explanations/scale.md covers more."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

import typer

WAIT = 30
"""Seconds in which the first process reaches the same error, on a machine that does much else."""


def is_launched() -> bool:
    """Whether this process was started by a launcher."""
    return "RANK" in os.environ


def is_first_process() -> bool:
    """Whether this process has rank 0, the one that prints."""
    return os.environ.get("RANK", "0") == "0"


def launch(n: int, option: str) -> None:
    """Runs this command, without ``option``, in ``n`` processes and returns when all have finished.

    Raises:
        typer.Exit: a process failed; the others are stopped and its exit status is passed on.
    """
    import logging

    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # The failed process has already printed its error.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // n)))
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=n, max_restarts=0, monitor_interval=0.1,
        rdzv_backend="c10d", rdzv_endpoint="localhost:0", run_id=f"graphrec-{os.getpid()}",
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)("-m", "graphrec", *without_option(sys.argv[1:], option))
    except ChildFailedError as cause:
        raise typer.Exit(abs(cause.get_first_failure()[1].exitcode)) from None


def without_option(arguments: Sequence[str], option: str) -> list[str]:
    """The arguments without one option and its value."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip or argument.startswith(f"{option}="):
            skip = False
        elif argument == option:
            skip = True
        else:
            kept.append(argument)
    return kept


def wait_for_first_process() -> None:
    """Waits in all but the first process before an error is printed.

    If the first process fails with the same error, the launcher stops the others meanwhile, and the error is
    printed once. An error of another process alone is printed after :data:`WAIT` seconds.
    """
    if not is_first_process():
        time.sleep(WAIT)
