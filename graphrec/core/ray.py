"""Computing on a Ray cluster: connecting to it, its capacity, and running tasks.

Ray is imported when a cluster is first used. Usage statistics, dashboard and log messages are off unless the
environment enables them (``RAY_USAGE_STATS_ENABLED=1``).
"""

from __future__ import annotations

import logging
import math
import os
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from graphrec.core.errors import ClusterError, ConfigError, missing_dependency
from graphrec.core.progress import silenced

Shared = TypeVar("Shared")
Part = TypeVar("Part")
Result = TypeVar("Result")

CONNECT_TIMEOUT = 5.0  # seconds; Ray itself tries for two minutes
RETRIES = 3  # further attempts after a worker died
ADDRESS = re.compile(r"(?:ray://)?(?P<host>[^\s:/\[\]]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})")
# The client preface of HTTP/2 (RFC 9113, 3.4); every server answers with a SETTINGS frame.
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
SETTINGS_FRAME = 4


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster and the resources of each worker.

    If this process is already connected to a cluster (``ray.init()``), that one is used whatever the address.

    Attributes:
        address: ``"local"`` starts a cluster on this machine while it is in use; ``"auto"`` connects to the
            cluster this machine is part of (``ray start``); ``"10.0.0.1:6379"`` connects to the cluster with
            this head node, which this machine must be part of.
        workers: maximum number of workers; default: as many as fit.
        cpus: CPU cores per worker; default: one, or the number of torch threads of this process for work that
            uses torch, because the last bits of its results depend on it (limited to the largest node).
        gpus: GPUs per worker, possibly a fraction.

    Raises:
        ConfigError: an invalid address, or a number out of range.
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
                f"cluster address {self.address!r}: the Ray client is not supported; add this machine "
                "to the cluster (ray start --address=HOST:6379 --num-cpus=0) and use the address auto"
            )
        if not (
            (self.workers is None or (_is_number(self.workers, int) and self.workers >= 1))
            and (self.cpus is None or (_is_number(self.cpus, int | float) and 0 < self.cpus < math.inf))
            and (_is_number(self.gpus, int | float) and 0 <= self.gpus < math.inf)
        ):
            raise ConfigError(
                f"cluster: workers {self.workers!r}, cpus {self.cpus!r}, gpus {self.gpus!r}; expected at "
                "least one worker, more than 0 cpus, and at least 0 gpus"
            )

    @contextmanager
    def connect(self) -> Iterator[None]:
        """Connects this process to the cluster for the block; a local cluster stops at its end.

        Raises:
            ClusterError: the cluster cannot be reached; raised within seconds.
            MissingDependencyError: Ray is not installed.
        """
        ray = _import_ray()
        if ray.is_initialized():
            yield
            return
        options: dict[str, Any] = {"address": self.address}
        if self.address == "local":
            n_cpus = math.ceil((self.workers or 0) * (self.cpus or 1))
            options |= {"num_cpus": max(os.cpu_count() or 1, n_cpus), "include_dashboard": False}
        else:
            options["address"] = self._check_address()
        try:
            with silenced(2):  # its C++ core prints its log level
                ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as cause:  # Ray raises many kinds
            if _token_missing(cause):
                raise ClusterError(
                    f"Ray at {self.address!r} requires a token; set RAY_AUTH_MODE=token on every machine, "
                    "with the token of the head node in ~/.ray/auth_token or at RAY_AUTH_TOKEN_PATH"
                ) from cause
            raise ClusterError(
                f"Ray at {self.address!r} refused the connection ({_first_line(cause)}); expected a "
                "cluster with the same Ray and Python versions that this machine is part of (ray start)"
            ) from cause
        try:
            yield
        finally:
            ray.shutdown()

    def _check_address(self) -> str:
        """The address as ``host:port``, after an HTTP/2 server has answered there."""
        address = self.address
        if address == "auto":
            from ray._private.services import canonicalize_bootstrap_address_or_die

            try:
                address = canonicalize_bootstrap_address_or_die("auto")
            except (ConnectionError, ValueError, RuntimeError) as cause:
                raise ClusterError(
                    "no Ray cluster runs on this machine; make it part of one with ray start --head or "
                    "ray start --address=HOST:6379, or use the address local"
                ) from cause
        match = ADDRESS.fullmatch(address)
        if match is None:
            raise ClusterError(f"RAY_ADDRESS={address!r}; expected HOST:PORT")
        host = match["host"].strip("[]")
        port = int(match["port"])
        problem = f"{address}: no Ray cluster answers"
        advice = "check the address that ray start --head printed, and that the cluster still runs"
        encrypted = os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")
        answer = b""
        try:
            with socket.create_connection((host, port), CONNECT_TIMEOUT) as connection:
                if not encrypted:
                    connection.sendall(HTTP2_PREFACE)
                    answer = connection.recv(9)
        except (OSError, OverflowError) as cause:
            raise ClusterError(f"{problem} ({_first_line(cause)}); {advice}") from cause
        if not encrypted and (len(answer) < 4 or answer[3] != SETTINGS_FRAME):
            raise ClusterError(f"{problem} (another program does); {advice}")
        return address

    def cpus_per_worker(self, torch_computes: bool) -> float:
        """CPU cores per worker.

        Args:
            torch_computes: whether the workers compute with torch; see ``cpus``.
        """
        if self.cpus is not None:
            return self.cpus
        if not torch_computes:
            return 1.0
        largest = max((machine.get("CPU", 0.0) for machine in _alive_nodes()), default=0.0)
        return max(1.0, min(float(torch_threads()), largest))

    def max_workers(self, cpus: float) -> int:
        """Maximum number of simultaneous workers with this many cores, at least one.

        Raises:
            ClusterError: no node has enough resources for a worker.
        """
        machines = _alive_nodes()
        fit = 0
        for machine in machines:
            by_cpus = machine.get("CPU", 0.0) / cpus
            fit += int(min(by_cpus, machine.get("GPU", 0.0) / self.gpus) if self.gpus else by_cpus)
        if not fit:
            resources = ", ".join(
                f"{m.get('CPU', 0.0):g} CPUs and {m.get('GPU', 0.0):g} GPUs" for m in machines
            )
            raise ClusterError(
                f"{self.address}: no node has {cpus:g} CPUs and {self.gpus:g} GPUs for a worker; the "
                f"nodes have {resources or 'none'}; lower cpus= or gpus="
            )
        return min(fit, self.workers or fit)

    def map_unordered(
        self, work: Callable[[Shared, Part], Result], shared: Shared, parts: Sequence[Part]
    ) -> Iterator[tuple[Part, Result]]:
        """Computes ``work(shared, part)`` for every part in torch tasks and yields results as they finish.

        A task whose worker dies is repeated. ``shared`` is sent to the cluster once; NumPy arrays in it are
        read in place from one copy per machine. Tasks use as many torch threads as this process.

        Args:
            work: a function that a worker can import.
            shared: input of all tasks; its arrays are read-only.
            parts: input of the single tasks.

        Raises:
            ClusterError: not enough resources, or workers died too often.
            Exception: any exception of ``work``.
        """
        with self.connect():
            import ray

            cpus = self.cpus_per_worker(torch_computes=True)
            task = ray.remote(_run_task).options(num_cpus=cpus, num_gpus=self.gpus, max_retries=RETRIES)
            shared_ref = ray.put(shared)
            limit = self.max_workers(cpus)
            left = list(reversed(parts))
            waiting: dict[Any, Part] = {}
            # After an error, running tasks are left to finish: cancelling a task at the moment it ends can
            # abort this process (a failed check in Ray 2.60's task manager).
            while left or waiting:
                while left and len(waiting) < limit:
                    part = left.pop()
                    waiting[task.remote(work, shared_ref, part, torch_threads())] = part
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                with reraise_worker_errors(self.address):
                    result = ray.get(done)
                yield waiting.pop(done), result
                del result  # frees its memory in the cluster


@contextmanager
def reraise_worker_errors(address: str) -> Iterator[None]:
    """Re-raises an exception of a worker as it was raised there.

    Args:
        address: address of the cluster, for messages.

    Raises:
        ClusterError: the cause was not an exception of the work: workers died, or the cluster failed.
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
            f"{address}: the cluster failed ({_first_line(first or cause)}) after at most {RETRIES + 1} "
            "attempts; look for workers out of memory (ray status, and the logs in Ray's session "
            "directory), and run the command again"
        ) from cause


def _run_task(work: Callable[[Any, Any], Any], shared: Any, part: Any, threads: int) -> Any:
    import torch

    torch.set_num_threads(threads)
    return work(shared, part)


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray reads it
    os.environ.setdefault("RAY_enable_metrics_collection", "0")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # errors of abandoned tasks
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it logs problems that it recovers from
    try:
        import ray
    except ImportError as cause:
        raise missing_dependency("ray", "ray") from cause
    return ray


def _token_missing(cause: BaseException | None) -> bool:
    """Whether the cluster requires authentication; Ray says so only in the text of a cause."""
    while cause is not None and "authentication" not in str(cause).lower():
        cause = cause.__cause__ or cause.__context__
    return cause is not None


def _is_number(value: object, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _alive_nodes() -> list[dict[str, float]]:
    import ray

    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def torch_threads() -> int:
    """Number of torch threads in this process."""
    import torch

    return int(torch.get_num_threads())


def _first_line(cause: BaseException) -> str:
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0].strip()
