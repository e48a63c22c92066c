"""One command in several processes, by torch's own launcher; docs/explanations/scale.md describes several machines."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Sequence

import typer


def launched() -> bool:
    """Whether this is one of several processes already."""
    return "RANK" in os.environ


def speaks() -> bool:
    """Whether this process prints: the first one alone."""
    return os.environ.get("RANK", "0") == "0"


def launch(n: int, option: str) -> None:
    """Runs this command in ``n`` processes of this machine and returns when all are done.

    Args:
        n: how many.
        option: the one that asked for it, which they are not given.

    Raises:
        typer.Exit: one failed; with its exit status, the others are stopped.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what failed has said so
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // n)))
    where = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=n, max_restarts=0, monitor_interval=0.1,
        rdzv_backend="c10d", rdzv_endpoint="localhost:0", run_id=f"graphrec-{os.getpid()}",
    )  # fmt: skip
    try:
        elastic_launch(where, sys.executable)("-m", "graphrec", *without(sys.argv[1:], option))
    except ChildFailedError as cause:
        raise typer.Exit(abs(cause.get_first_failure()[1].exitcode)) from None


def without(arguments: Sequence[str], option: str) -> list[str]:
    """Arguments without one option and its value."""
    kept, skip = [], False
    for argument in arguments:
        if skip or argument.startswith(f"{option}="):
            skip = False
        elif argument == option:
            skip = True
        else:
            kept.append(argument)
    return kept


def let_the_first_speak() -> None:
    """Called before an error is printed: where the first process fails as well, the others are stopped
    meanwhile, and it is said once.
    """
    if not speaks():
        time.sleep(2)
