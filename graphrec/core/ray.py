"""Other processes and machines to compute on, through Ray: joining a cluster, what fits in it, its tasks.

Ray is imported when a cluster is joined and not before. It reports nothing to anybody, opens no dashboard and
keeps its messages to itself, unless the environment says otherwise (``RAY_USAGE_STATS_ENABLED=1``).
"""

from __future__ import annotations

import logging
import math
import os
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from graphrec.core.errors import ClusterError, ConfigError, requires

Shared = TypeVar("Shared")
Part = TypeVar("Part")
Result = TypeVar("Result")

PATIENCE = 5.0  # seconds for an address to answer; Ray itself tries for two minutes
RETRIES = 3  # further attempts after a worker died with its work
ADDRESS = re.compile(r"(?:ray://)?(?P<host>[^\s:/\[\]]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})")
# What a gRPC client says first (RFC 9113, 3.4), and the beginning of any server's answer: a SETTINGS frame.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
SETTINGS = 4


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster, and how much of it a worker takes.

    Where this process has joined a cluster already (``ray.init()``), that one is used, whatever the address.

    Attributes:
        address: ``"local"`` starts one on this machine for as long as it is used; ``"auto"`` joins the one
            that this machine is part of (``ray start``); ``"10.0.0.1:6379"`` joins the one with this head, of
            which this machine must be a part.
        workers: most of them at a time; default: as many as fit.
        cpus: cores a worker takes; default: one, and as many as torch has threads here where torch computes,
            since the last bits of its products depend on their number (but no more than the largest machine
            has).
        gpus: GPUs a worker takes, or a share of one.

    Raises:
        ConfigError: an address of no known form, or a number out of range.
    """

    address: str = "local"
    workers: int | None = None
    cpus: float | None = None
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.address, str) or not (
            self.address in ("local", "auto") or ADDRESS.fullmatch(self.address)
        ):
            raise ConfigError(
                f"cluster address {self.address!r}; expected local, auto, or HOST:PORT of the head, such as "
                "10.0.0.1:6379"
            )
        if self.address.startswith("ray://"):
            raise ConfigError(
                f"cluster address {self.address!r}: the Ray client is not supported; make this machine a "
                "part of the cluster (ray start --address=HOST:6379 --num-cpus=0) and give auto"
            )
        if not (
            (self.workers is None or (_number(self.workers, int) and self.workers >= 1))
            and (self.cpus is None or (_number(self.cpus, int | float) and 0 < self.cpus < math.inf))
            and (_number(self.gpus, int | float) and 0 <= self.gpus < math.inf)
        ):
            raise ConfigError(
                f"cluster: workers {self.workers!r}, cpus {self.cpus!r}, gpus {self.gpus!r}; expected at "
                "least one worker, more than 0 cpus, and at least 0 gpus"
            )

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Inside the block this process is a part of the cluster; a local one ends with the block.

        Raises:
            ClusterError: it cannot be reached; said within seconds.
            MissingDependencyError: Ray is not installed.
        """
        ray = _ray()
        if ray.is_initialized():
            yield
            return
        options: dict[str, Any] = {"address": self.address}
        if self.address == "local":
            wanted = math.ceil((self.workers or 0) * (self.cpus or 1))
            options |= {"num_cpus": max(os.cpu_count() or 1, wanted), "include_dashboard": False}
        else:
            options["address"] = self._reached()
        try:
            with _unheard():
                ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as cause:  # Ray raises many kinds
            if _refused(cause):
                raise ClusterError(
                    f"Ray at {self.address!r} asks for a token; set RAY_AUTH_MODE=token on every machine, "
                    "with the token of the head in ~/.ray/auth_token or where RAY_AUTH_TOKEN_PATH says"
                ) from cause
            raise ClusterError(
                f"Ray at {self.address!r} cannot be joined ({_line(cause)}); expected a cluster of the same "
                "Ray and Python versions that this machine is a part of (ray start)"
            ) from cause
        try:
            yield
        finally:
            ray.shutdown()

    def _reached(self) -> str:
        """The address as ``host:port``, once something that may be Ray answered there."""
        address = self.address
        if address == "auto":
            from ray._private.services import canonicalize_bootstrap_address_or_die

            try:
                address = canonicalize_bootstrap_address_or_die("auto")
            except (ConnectionError, ValueError, RuntimeError) as cause:
                raise ClusterError(
                    "no Ray cluster runs on this machine; make it part of one with ray start --head or "
                    "ray start --address=HOST:6379, or give local"
                ) from cause
        found = ADDRESS.fullmatch(address)
        if found is None:
            raise ClusterError(f"RAY_ADDRESS={address!r}; expected HOST:PORT")
        host, port = found["host"].strip("[]"), int(found["port"])
        told = f"{address}: no Ray cluster answers there"
        advice = "check the address that ray start --head printed, and that it still runs"
        encrypted, answer = os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"), b""
        try:
            with socket.create_connection((host, port), PATIENCE) as connection:
                if not encrypted:
                    connection.sendall(PREFACE)
                    answer = connection.recv(9)
        except (OSError, OverflowError) as cause:
            raise ClusterError(f"{told} ({_line(cause)}); {advice}") from cause
        if not encrypted and (len(answer) < 4 or answer[3] != SETTINGS):
            raise ClusterError(f"{told} (something else does); {advice}")
        return address

    def share(self, torch_computes: bool) -> float:
        """The cores a worker takes.

        Args:
            torch_computes: whether they are for torch; see ``cpus``.
        """
        if self.cpus is not None:
            return self.cpus
        if not torch_computes:
            return 1.0
        largest = max((machine.get("CPU", 0.0) for machine in _machines()), default=0.0)
        return max(1.0, min(float(torch_threads()), largest))

    def room(self, cpus: float) -> int:
        """How many workers of so many cores may work at a time, at least one.

        Raises:
            ClusterError: none fits.
        """
        machines = _machines()
        fit = 0
        for machine in machines:
            of_cpus = machine.get("CPU", 0.0) / cpus
            fit += int(min(of_cpus, machine.get("GPU", 0.0) / self.gpus) if self.gpus else of_cpus)
        if not fit:
            found = ", ".join(f"{m.get('CPU', 0.0):g} CPUs and {m.get('GPU', 0.0):g} GPUs" for m in machines)
            raise ClusterError(
                f"{self.address}: no machine has the {cpus:g} CPUs and {self.gpus:g} GPUs of a worker; there "
                f"are machines of {found or 'none'}; ask for less with cpus= and gpus="
            )
        return min(fit, self.workers or fit)

    def each(
        self, work: Callable[[Shared, Part], Result], shared: Shared, parts: Sequence[Part]
    ) -> Iterator[tuple[Part, Result]]:
        """``work(shared, part)`` of every part, by tasks of torch, in the order in which they are done.

        A task whose worker dies is done again. What is shared is put into the cluster once, and NumPy arrays
        in it are read in place, from one copy on each machine. Threads of torch are as many as here.

        Args:
            work: a function that a worker can import.
            shared: what all of them read; arrays in it cannot be written.
            parts: what tells the tasks apart.

        Raises:
            ClusterError: no room, or workers died too often.
            Exception: whatever ``work`` raises.
        """
        with self.joined():
            import ray

            cpus = self.share(torch_computes=True)
            task = ray.remote(_task).options(num_cpus=cpus, num_gpus=self.gpus, max_retries=RETRIES)
            held, most, left = ray.put(shared), self.room(cpus), list(reversed(parts))
            waiting: dict[Any, Part] = {}
            # After an error the few tasks that are under way end by themselves: to cancel one in the moment
            # in which it ends can abort this process (a failed check in Ray 2.60's task manager).
            while left or waiting:
                while left and len(waiting) < most:
                    part = left.pop()
                    waiting[task.remote(work, held, part, torch_threads())] = part
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                with raised_here(self.address):
                    result = ray.get(done)
                yield waiting.pop(done), result
                del result  # and with it its place in the cluster's memory


@contextmanager
def raised_here(address: str) -> Iterator[None]:
    """An error of a worker, raised inside the block, leaves it as it was there.

    Args:
        address: of the cluster, for messages.

    Raises:
        ClusterError: what happened was no error of the work: workers died, or the cluster did.
    """
    from ray.exceptions import RayError, RayTaskError

    try:
        yield
    except RayError as cause:
        first = cause.cause if isinstance(cause, RayTaskError) else None
        while isinstance(first, RayTaskError):
            first = first.cause
        if isinstance(first, Exception) and not isinstance(first, RayError):
            raise first from cause
        raise ClusterError(
            f"{address}: the cluster gave up ({_line(first or cause)}); the work was begun {RETRIES + 1} "
            "times at most; look for workers without memory (ray status, and the logs in Ray's session "
            "directory), and run it again"
        ) from cause


def _task(work: Callable[[Any, Any], Any], shared: Any, part: Any, threads: int) -> Any:
    import torch

    torch.set_num_threads(threads)
    return work(shared, part)


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray reads it
    os.environ.setdefault("RAY_enable_metrics_collection", "0")
    os.environ.setdefault(
        "RAY_IGNORE_UNHANDLED_ERRORS", "1"
    )  # of tasks whose result nobody waits for any more
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it prints what it then mends by itself
    try:
        import ray
    except ImportError as cause:
        raise requires("ray", "ray") from cause
    return ray


def _refused(cause: BaseException | None) -> bool:
    """Whether a cluster wants to know who asks; Ray says so in the text of a cause alone."""
    while cause is not None and "authentication" not in str(cause).lower():
        cause = cause.__cause__ or cause.__context__
    return cause is not None


@contextmanager
def _unheard() -> Iterator[None]:
    """Ray's core tells, past Python, at which level it will keep silent."""
    kept = nothing = -1
    with suppress(OSError):  # no stderr, no noise
        kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 2)
    try:
        yield
    finally:
        if nothing >= 0:
            os.dup2(kept, 2)
        for opened in (kept, nothing):
            with suppress(OSError):
                os.close(opened)


def _number(value: object, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _machines() -> list[dict[str, float]]:
    import ray

    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def torch_threads() -> int:
    """How many threads torch computes with in this process."""
    import torch

    return int(torch.get_num_threads())


def _line(cause: BaseException) -> str:
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0].strip()
