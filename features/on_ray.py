"""Shards computed by the workers of a Ray cluster, as a stage of Ray Data.

Only computing is spread. The process that asked for the table plans it, fits the extractor, writes the files
and decides when too much is unreadable, so that a table does not tell where its shards were computed.
"""

from __future__ import annotations

import builtins
import json
import logging
import math
import os
import socket
import traceback
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from graphrec.core.errors import ClusterError, ConfigError, GraphrecError
from graphrec.core.ray import RETRIES, Cluster, reraise_worker_errors, torch_threads
from graphrec.data import Content
from graphrec.features.extract.shard import PREFETCH_BATCHES, EncodedShard, encode_shard, load_rows
from graphrec.features.extract.writer import Shard

if TYPE_CHECKING:
    from graphrec.features.extract.registry import Extractor


def encode_on_cluster(
    cluster: Cluster,
    todo: Sequence[Shard],
    content: Content,
    extractor: Extractor,
    batch: int,
    readers: int | None,
) -> Generator[tuple[Shard, EncodedShard], None, None]:
    """Computes shards on a cluster; yields them in the order in which they are done.

    A worker gets the extractor once and then shard after shard, with the content of their rows. The shard of
    a worker that died is computed again.

    Args:
        cluster: where.
        todo: the shards.
        content: of all items.
        extractor: fitted, where it can be fitted; it must be possible to pickle it.
        batch: items per forward pass.
        readers: threads of a worker that read and decode; default: two per core it takes.

    Raises:
        ClusterError: the cluster cannot be reached, has no room, does not see the pictures, would compute
            something else than this machine, or lost its workers too often.
        ConfigError: the extractor cannot be sent to other processes.
        GraphrecError: whatever the extractor raises.
    """
    if not todo:
        return
    with cluster.connect():
        import ray
        from ray.data import ActorPoolStrategy, DataContext

        # Where the last bits of a row depend on its batch, they may depend on the number of threads as well.
        torch_computes = getattr(extractor, "batch_size", None) is not None
        cpus = cluster.cpus_per_worker(torch_computes)
        workers = min(cluster.max_workers(cpus), len(todo))
        try:
            held = ray.put(extractor)
        except TypeError as cause:
            raise ConfigError(
                f"{extractor.name}: cannot be sent to other processes ({str(cause).splitlines()[0]}); give "
                "it __getstate__ or __reduce__, or extract without a cluster"
            ) from cause
        settings: dict[str, Any] = {
            "held": [held],  # within a list: a worker fetches it when it can say what went wrong
            "described": _description_json(extractor),
            "kind": content.kind,
            # Workers stand in another directory than this process.
            "root": str(Path(content.root or ".").resolve()) if content.kind == "image" else None,
            "seen": content.root is not None and content.root.is_dir(),
            "batch": batch,
            "readers": readers or max(2, min(16, math.ceil(2 * cpus))),
            "threads": torch_threads() if torch_computes else None,
            "attempts": ray.remote(Attempts).options(num_cpus=0).remote(),
        }
        by_number = {shard.number: shard for shard in todo}
        blocks = [
            pa.table({"shard": [s.number], "content": [json.dumps(content.values[s.first : s.last])]})
            for s in todo
        ]
        context = DataContext.get_current().copy()
        context.enable_progress_bars = context.print_on_execution_start = False
        with DataContext.current(context), _quiet_ray_data(), reraise_worker_errors(cluster.address):
            results = ray.data.from_arrow(blocks).map_batches(
                ShardEncoder,
                fn_constructor_kwargs=settings,
                batch_size=1,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(size=workers),
                num_cpus=cpus,
                num_gpus=cluster.gpus or None,
            )
            # Closed, it gives the workers back, also where whoever caught an error still holds it.
            with closing(iter(results.iter_batches(batch_size=None, batch_format="pyarrow"))) as tables:
                for table in tables:
                    for row in range(len(table)):
                        shard = by_number.pop(table["shard"][row].as_py())
                        yield shard, _unpack_result(table["told"][row].as_py(), table["vectors"][row].as_buffer())
        if by_number:
            raise ClusterError(f"{cluster.address}: {len(by_number)} shards did not come back; run it again")


class Attempts:
    """Counts how often each shard was begun, for all workers: Ray Data begins without end what kills them."""

    def __init__(self) -> None:
        self.begun: Counter[int] = Counter()

    def begin(self, shard: int) -> int:
        """The number of this attempt, from 1."""
        self.begun[shard] += 1
        return self.begun[shard]


class ShardEncoder:
    """A worker: loads the extractor with its first shard, and encodes one shard after another.

    Errors travel as data, as Ray Data would wrap them beyond recognition.

    Args:
        held: the extractor's place in the cluster.
        described: what the extractor says of itself where it was made.
        kind: of the content.
        root: directory that image paths are relative to.
        seen: whether that directory was there.
        batch: items per forward pass.
        readers: threads that read and decode.
        threads: of torch; None where it does not compute.
        attempts: the actor of :class:`Attempts`.
    """

    def __init__(
        self,
        held: list[Any],
        described: str,
        kind: Any,
        root: str | None,
        seen: bool,
        batch: int,
        readers: int,
        threads: int | None,
        attempts: Any,
    ) -> None:
        self.held, self.described, self.kind, self.root, self.seen = held, described, kind, root, seen
        self.batch, self.readers, self.threads = batch, readers, threads
        self.attempts = attempts
        self.extractor: Extractor | None = None

    def __call__(self, asked: pa.Table) -> pa.Table:
        """The computed shard of each row: ``shard``, what is told of it as JSON, the bytes of its vectors."""
        told, vectors = [], []
        for number, values in zip(asked["shard"].to_pylist(), asked["content"].to_pylist(), strict=True):
            try:
                self._begin(number)
                done = self._encoded(json.loads(values))
                told.append(_pack_result(done))
                vectors.append(done.vectors.tobytes())
            except Exception as cause:
                told.append(_pack_error(cause))
                vectors.append(b"")
        return pa.table(
            {
                "shard": asked["shard"],
                "told": pa.array(told, pa.large_string()),
                "vectors": pa.array(vectors, pa.large_binary()),
            }
        )

    def _begin(self, number: int) -> None:
        import ray

        if ray.get(self.attempts.begin.remote(number)) > RETRIES + 1:
            raise ClusterError(
                f"shard {number}: {RETRIES + 1} workers died with it; look for machines without memory or a "
                "library that crashes (the logs are in Ray's session directory), and run it again"
            )

    def _encoded(self, values: list[str | None]) -> EncodedShard:
        if self.extractor is None:
            self.extractor = self._fetched()
        content = Content(self.kind, values, self.root)
        extractor = self.extractor
        if self.kind != "image":
            return encode_shard(load_rows(content, range(len(values)), extractor, None, 1), extractor, self.batch)
        _ = extractor.dim  # loads the model before threads need it
        with ThreadPoolExecutor(self.readers, thread_name_prefix="features") as pool:
            ahead = max(PREFETCH_BATCHES * self.batch, self.readers)
            return encode_shard(
                load_rows(content, range(len(values)), extractor, pool, ahead), extractor, self.batch
            )

    def _fetched(self) -> Extractor:
        import ray

        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)
        host = socket.gethostname()
        if self.seen and not os.path.isdir(self.root or ""):
            raise ClusterError(
                f"{host}: {self.root} is not there; expected the pictures at the same place on all machines"
            )
        try:
            extractor: Extractor = ray.get(self.held[0])
        except ray.exceptions.RaySystemError as cause:  # a package that is missing there, for one
            raise ClusterError(
                f"{host}: the extractor cannot be made there ({str(cause).strip().splitlines()[-1]}); "
                "expected the same packages on all machines"
            ) from cause
        found = _description_json(extractor)
        if found != self.described:
            own, other = json.loads(found), json.loads(self.described)
            differing = {k: own.get(k) for k in sorted({*own, *other}) if own.get(k) != other.get(k)}
            raise ClusterError(
                f"{host}: the extractor would compute something else there, with {differing}; expected the "
                "same packages and weights on all machines"
            )
        return extractor


def _description_json(extractor: Extractor) -> str:
    return json.dumps(extractor.describe(), sort_keys=True)


def _pack_result(done: EncodedShard) -> str:
    """All but the vectors as JSON, in which texts may hold what UTF-8 cannot."""
    return json.dumps(
        {
            "sources": done.sources,
            "unreadable": sorted(done.unreadable.items()),
            "places": done.places.tolist(),
            "shape": done.vectors.shape,
            "dtype": done.vectors.dtype.str,
        }
    )


def _pack_error(cause: Exception) -> str:
    """An error as JSON: the name of its class, its message, and where it came from."""
    from ray.exceptions import RayError

    name = ClusterError.__name__ if isinstance(cause, RayError) else type(cause).__name__
    message = cause.args[0] if len(cause.args) == 1 and isinstance(cause.args[0], str) else str(cause)
    return json.dumps({"error": name, "message": message, "origin": traceback.format_exc()})


def _unpack_result(told: str, vectors: Any) -> EncodedShard:
    found = json.loads(told)
    if "error" in found:
        known = {kind.__name__: kind for kind in GraphrecError.__subclasses__()}
        kind: Any = known.get(found["error"], getattr(builtins, found["error"], None))
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            found["message"], kind = f"{found['error']}: {found['message']}", RuntimeError
        error = kind(found["message"])
        error.add_note(f"In a worker:\n{found['origin']}")
        raise error
    values = np.frombuffer(vectors, dtype=found["dtype"]).reshape(found["shape"])
    places = np.asarray(found["places"], dtype=np.int64)
    return EncodedShard(found["sources"], dict(map(tuple, found["unreadable"])), places, values)


@contextmanager
def _quiet_ray_data() -> Iterator[None]:
    """Ray Data tells of its plans as it goes; this keeps what it says to errors."""
    logger = logging.getLogger("ray.data")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
