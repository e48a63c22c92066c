"""Computes shards on the workers of a Ray cluster, as a stage of Ray Data.

Only the computation is distributed. The calling process plans the table, fits the extractor, writes the files
and enforces the limit of unreadable content, so that a table is the same wherever its shards were computed.
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
from dataclasses import dataclass
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
    """Computes shards on a cluster and yields them as they finish.

    A worker receives the extractor once and then one shard after another, with the content of its rows. The
    shard of a worker that died is computed again.

    Args:
        cluster: the cluster.
        todo: the shards.
        content: content of all items.
        extractor: the extractor, which must support pickling; fitted, if it has ``fit``.
        batch: items per forward pass.
        readers: threads per worker that read and decode; default: two per CPU core of the worker.

    Raises:
        ClusterError: the cluster cannot be reached, lacks resources, cannot read the images, would compute
            other vectors than this machine, or lost its workers too often.
        ConfigError: the extractor cannot be pickled.
        GraphrecError: any error of the extractor.
    """
    if not todo:
        return
    with cluster.connect():
        import ray
        from ray.data import ActorPoolStrategy, DataContext

        # If the last bits of a vector depend on its batch, they may depend on the number of threads too.
        torch_computes = getattr(extractor, "batch_size", None) is not None
        cpus = cluster.cpus_per_worker(torch_computes)
        workers = min(cluster.max_workers(cpus), len(todo))
        try:
            extractor_ref = ray.put(extractor)
        except TypeError as cause:
            raise ConfigError(
                f"{extractor.name}: cannot be pickled ({str(cause).splitlines()[0]}); define __getstate__ or "
                "__reduce__, or extract without a cluster"
            ) from cause
        settings: dict[str, Any] = {
            # In a list, so that the worker fetches it and can report errors.
            "extractor_ref": [extractor_ref],
            "description": _description_json(extractor),
            "kind": content.kind,
            # Workers have another working directory than this process.
            "root": str(Path(content.root or ".").resolve()) if content.kind != "text" else None,
            "root_exists": content.root is not None and content.root.is_dir(),
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
            # Closing the iterator releases the workers even if a caught exception keeps it alive.
            with closing(iter(results.iter_batches(batch_size=None, batch_format="pyarrow"))) as tables:
                for table in tables:
                    for row in range(len(table)):
                        shard = by_number.pop(table["shard"][row].as_py())
                        vectors = table["vectors"][row].as_buffer()
                        yield shard, _unpack_result(table["result"][row].as_py(), vectors)
        if by_number:
            raise ClusterError(
                f"{cluster.address}: {len(by_number)} shards were not returned; run the command again"
            )


class Attempts:
    """Counts the attempts per shard over all workers, because Ray Data retries without a limit."""

    def __init__(self) -> None:
        self.started: Counter[int] = Counter()

    def begin(self, shard: int) -> int:
        """Registers an attempt and returns its number, from 1."""
        self.started[shard] += 1
        return self.started[shard]


@dataclass(eq=False)
class ShardEncoder:
    """A worker that loads the extractor with its first shard and encodes one shard after another.

    Errors are returned as data, because Ray Data would hide their type.

    Args:
        extractor_ref: the extractor's reference in the object store, in a list.
        description: the extractor's description in the calling process, as JSON.
        kind: kind of the content.
        root: directory that image paths are relative to.
        root_exists: whether that directory exists in the calling process.
        batch: items per forward pass.
        readers: threads that read and decode.
        threads: number of torch threads; None if the extractor does not use torch.
        attempts: the actor of :class:`Attempts`.
    """

    extractor_ref: list[Any]
    description: str
    kind: str
    root: str | None
    root_exists: bool
    batch: int
    readers: int
    threads: int | None
    attempts: Any

    def __post_init__(self) -> None:
        self.extractor: Extractor | None = None

    def __call__(self, shards: pa.Table) -> pa.Table:
        """Encodes the shard of each row; returns number, result as JSON and the bytes of the vectors."""
        results: list[str] = []
        vectors: list[bytes] = []
        for number, values in zip(shards["shard"].to_pylist(), shards["content"].to_pylist(), strict=True):
            try:
                self._register(number)
                encoded = self._encode(json.loads(values))
                results.append(_pack_result(encoded))
                vectors.append(encoded.vectors.tobytes())
            except Exception as cause:
                results.append(_pack_error(cause))
                vectors.append(b"")
        return pa.table(
            {
                "shard": shards["shard"],
                "result": pa.array(results, pa.large_string()),
                "vectors": pa.array(vectors, pa.large_binary()),
            }
        )

    def _register(self, number: int) -> None:
        import ray

        if ray.get(self.attempts.begin.remote(number)) > RETRIES + 1:
            raise ClusterError(
                f"shard {number}: {RETRIES + 1} workers died while computing it; look for machines out of "
                "memory or a crashing library (the logs are in Ray's session directory), and run the command "
                "again"
            )

    def _encode(self, values: list[str | None]) -> EncodedShard:
        if self.extractor is None:
            self.extractor = self._load_extractor()
        content = Content(self.kind, values, self.root)
        extractor = self.extractor
        is_image = self.kind == "image"
        if is_image:
            _ = extractor.dim  # loads the model before threads need it
        with ThreadPoolExecutor(self.readers, thread_name_prefix="features") as pool:
            n = max(PREFETCH_BATCHES * self.batch, self.readers)
            loaded = load_rows(content, range(len(values)), extractor, pool if is_image else None, n)
            return encode_shard(loaded, extractor, self.batch)

    def _load_extractor(self) -> Extractor:
        import ray

        if self.threads is not None:
            import torch

            torch.set_num_threads(self.threads)
        host = socket.gethostname()
        if self.root_exists and not os.path.isdir(self.root or ""):
            raise ClusterError(
                f"{host}: no directory {self.root}; expected the images at the same path on all machines"
            )
        try:
            extractor: Extractor = ray.get(self.extractor_ref[0])
        except ray.exceptions.RaySystemError as cause:  # for example a missing package
            raise ClusterError(
                f"{host}: the extractor cannot be loaded ({str(cause).strip().splitlines()[-1]}); "
                "expected the same packages on all machines"
            ) from cause
        description = _description_json(extractor)
        if description != self.description:
            local = json.loads(description)
            expected = json.loads(self.description)
            keys = sorted({*local, *expected})
            differing = {k: local.get(k) for k in keys if local.get(k) != expected.get(k)}
            raise ClusterError(
                f"{host}: the extractor differs on this machine: {differing}; expected the same "
                "packages and weights on all machines"
            )
        return extractor


def _description_json(extractor: Extractor) -> str:
    return json.dumps(extractor.describe(), sort_keys=True)


def _pack_result(encoded: EncodedShard) -> str:
    """Everything except the vectors as JSON, which also represents text that is invalid UTF-8."""
    return json.dumps(
        {
            "sources": encoded.sources,
            "unreadable": sorted(encoded.unreadable.items()),
            "places": encoded.places.tolist(),
            "shape": encoded.vectors.shape,
            "dtype": encoded.vectors.dtype.str,
        }
    )


def _pack_error(cause: Exception) -> str:
    """An error as JSON: class name, message and traceback."""
    from ray.exceptions import RayError

    name = ClusterError.__name__ if isinstance(cause, RayError) else type(cause).__name__
    message = cause.args[0] if len(cause.args) == 1 and isinstance(cause.args[0], str) else str(cause)
    return json.dumps({"error": name, "message": message, "origin": traceback.format_exc()})


def _unpack_result(packed: str, vectors: Any) -> EncodedShard:
    result = json.loads(packed)
    if "error" in result:
        known = {kind.__name__: kind for kind in GraphrecError.__subclasses__()}
        kind: Any = known.get(result["error"], getattr(builtins, result["error"], None))
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            result["message"], kind = f"{result['error']}: {result['message']}", RuntimeError
        error = kind(result["message"])
        error.add_note(f"In a worker:\n{result['origin']}")
        raise error
    values = np.frombuffer(vectors, dtype=result["dtype"]).reshape(result["shape"])
    places = np.asarray(result["places"], dtype=np.int64)
    return EncodedShard(result["sources"], dict(map(tuple, result["unreadable"])), places, values)


@contextmanager
def _quiet_ray_data() -> Iterator[None]:
    """Limits the log output of Ray Data, which reports its plans, to errors."""
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
