"""Where an epoch's time goes, part by part, and the least each part could take on this machine.

    python -m experiments.bench.profile [--models freedom bm3] [--epochs 5] [--scale 1]

Data of Amazon Baby's exact size, as in ``experiments.bench.epoch``. The epochs are the Trainer's own: its
calls are timed where they are made, time spent inside another part is not counted twice, and what no part
claims is printed as the rest, so that the parts add up to the epoch. Shown is the epoch of median length.

The floor of a part is the longer of its bytes over the copy bandwidth and its FLOPs over the rate of a large
float32 product, both measured at the start of the run (``experiments.bench.roofline``). Sparse products and
projections are counted as they are called; of the others, what any implementation must read and write once.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import torch

import graphrec as gr
from experiments.bench import catalog, measure
from experiments.bench.roofline import DIM, ceilings, product_bytes
from graphrec.graphs import graph as graphs
from graphrec.models import layers
from graphrec.training import trainer

BATCH = 2048
MODELS = {"freedom": "FREEDOM", "bm3": "BM3", "vbpr": "VBPR", "lattice": "LATTICE"}
START = "pruning, once an epoch"
SAMPLE = "sampling"
PROPAGATE, PROPAGATE_BACK = "propagation, forward", "propagation, backward"
PROJECT, PROJECT_BACK = "gather and project features, forward", "the same, backward"
LATENT, LATENT_BACK = "learned item graph, forward", "learned item graph, backward"
LOSS, LOSS_BACK = "loss arithmetic, forward", "loss arithmetic, backward"
ADAM, CLEAR = "optimizer", "clearing gradients"
PARTS = (
    START, SAMPLE, LATENT, LATENT_BACK, PROPAGATE, PROPAGATE_BACK, PROJECT, PROJECT_BACK, LOSS, LOSS_BACK,
    ADAM, CLEAR,
)  # fmt: skip


class Clock:
    """Time by part; of nested parts only the innermost runs.

    Attributes:
        seconds: by part.
        calls: by part.
        bytes: that each part had to move, as far as was counted.
        flops: likewise.
    """

    def __init__(self) -> None:
        self.open: list[str] = []
        self.clear()

    def clear(self) -> None:
        """Begins anew; parts that are open stay open."""
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self.bytes: dict[str, float] = defaultdict(float)
        self.flops: dict[str, float] = defaultdict(float)
        self.since = time.perf_counter()

    def _tick(self) -> None:
        now = time.perf_counter()
        if self.open:
            self.seconds[self.open[-1]] += now - self.since
        self.since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part that others may interrupt."""
        self._tick()
        self.open.append(name)
        self.calls[name] += 1
        try:
            yield
        finally:
            self._tick()
            self.open.pop()

    def go_on_as(self, name: str) -> None:
        """From here on the part that is running is another."""
        if self.open[-1] != name:
            self._tick()
            self.open[-1] = name
            self.calls[name] += 1

    def needs(self, bytes_: float, flops: float = 0, part: str | None = None) -> None:
        """Counts what the running part, or a named one, cannot do without."""
        self.bytes[part or self.open[-1]] += bytes_
        self.flops[part or self.open[-1]] += flops

    def timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, as a part."""

        @wraps(work)
        def call(*arguments: Any, **options: Any) -> Any:
            with self.part(name):
                return work(*arguments, **options)

        return call


def watch(clock: Clock, model: Any) -> None:
    """Times what the Trainer and the model's layers call, in this process from here on."""
    nodes = 4 * DIM * (model.n_users + model.n_items)
    size = sum(p.numel() for p in model.parameters())
    n_pairs = len(model.train_pairs)
    start, batches, loss, optimizer = model.start_epoch, model.batches, model.loss, model.optimizer

    def start_epoch(rng: Any) -> None:
        clock.clear()
        with clock.part(START):
            start(rng)
            if getattr(model, "epoch_graph", None) is not None and hasattr(model, "edge_probability"):
                clock.needs(n_pairs * 16 + len(model.epoch_graph) * 12)  # FREEDOM draws and sorts edges

    def sampled(plan: Any) -> Iterator[Any]:
        made = batches(plan)
        while True:
            with clock.part(SAMPLE):
                batch = next(made, None)
            if batch is None:
                return
            clock.needs(sum(2 * t.nbytes for t in batch), part=SAMPLE)
            yield batch

    def timed_loss(batch: Any) -> Any:
        with clock.part(LOSS):
            bytes_, flops = arithmetic(model, batch)
            clock.needs(bytes_, flops)
            clock.needs(bytes_ + (nodes if hasattr(model, "propagate") else 0), 2 * flops, LOSS_BACK)
            return loss(batch)

    def timed_optimizer(config: Any) -> Any:
        adam = optimizer(config)
        step, zero = adam.step, adam.zero_grad

        @wraps(step)
        def count(*arguments: Any, **options: Any) -> Any:
            with clock.part(ADAM):
                clock.needs(7 * 4 * size)
                return step(*arguments, **options)

        adam.step, adam.zero_grad = count, clock.timed(CLEAR, zero)
        return adam

    model.start_epoch, model.batches, model.loss = start_epoch, sampled, timed_loss
    model.optimizer = timed_optimizer
    if hasattr(model, "propagate"):
        _watch_propagation(clock, model, nodes)
    if hasattr(model, "latent_graph"):
        _watch_latent_graph(clock, model)
    _watch_layers(clock)
    backward = trainer._Precision.backward
    trainer._Precision.backward = clock.timed(LOSS_BACK, backward)  # type: ignore[method-assign]


def _watch_propagation(clock: Clock, model: Any, nodes: float) -> None:
    propagate = model.propagate

    def timed(*arguments: Any) -> Any:
        with clock.part(PROPAGATE):
            clock.needs(nodes)
            outputs = propagate(*arguments)
        left = {n for n, o in enumerate(outputs) if o.requires_grad}

        # Gradients of the results arrive when the loss is done; what runs after the last is propagation.
        def arrived(number: int) -> None:
            left.discard(number)
            if not left:
                clock.go_on_as(PROPAGATE_BACK)
                clock.needs(nodes)

        for number, output in enumerate(outputs):
            if output.requires_grad:
                output.register_hook(lambda _, number=number: arrived(number))
        return outputs

    model.propagate = timed


def _watch_latent_graph(clock: Clock, model: Any) -> None:
    latent, n, k = model.latent_graph, model.n_items, model.config.knn_k
    widths = [view.projection.in_features for view in model.views.values()]
    width = model.config.feature_dim

    def timed() -> Any:
        flops = 2.0 * n * sum(widths) * width
        with clock.part(LATENT):
            clock.needs(4.0 * n * sum(widths), flops + 2.0 * n * n * width * len(widths))
            graph = latent()
        if graph.weight.requires_grad:
            graph.weight.register_hook(lambda _: clock.go_on_as(LATENT_BACK))
            clock.needs(4.0 * n * (sum(widths) + k * width), flops, LATENT_BACK)
        return graph

    model.latent_graph = timed


def _watch_layers(clock: Clock) -> None:
    product, project = graphs._product, layers.ItemFeatures._project
    backward = layers._Projected.backward

    def counted_product(graph: Any, x: Any) -> Any:
        clock.needs(product_bytes(graph))
        return product(graph, x)

    def counted_project(self: Any, weight: Any, items: Any, others: Any) -> Any:
        rows = len(items) * (1 if others is None else 2)
        with clock.part(PROJECT):
            clock.needs(
                rows * weight.shape[1] * self.values.element_size(), 2.0 * len(items) * weight.numel()
            )
            return project(self, weight, items, others)

    def counted_backward(context: Any, gradient: Any) -> Any:
        with clock.part(PROJECT_BACK):
            rows, width = len(gradient), context.saved_tensors[0].shape[1]
            clock.needs(
                rows * width * context.saved_tensors[0].element_size(), 2.0 * gradient.numel() * width
            )
            return backward(context, gradient)

    graphs._product = counted_product
    layers.ItemFeatures._project = counted_project  # type: ignore[method-assign]
    layers._Projected.backward = staticmethod(counted_backward)  # type: ignore[method-assign]


def arithmetic(model: Any, batch: Any) -> tuple[float, float]:
    """Bytes and FLOPs of the forward half of what is neither propagation nor projection: rows taken by
    index and results read once, and the predictor where there is one.
    """
    rows = sum(t.numel() for t in batch if t.dtype == torch.int64 and t.dim())
    flops, bytes_ = 0.0, 4.0 * DIM * rows
    predictor = getattr(model, "predictor", None)
    if predictor is not None:
        distinct, modalities = len(batch.items), len(model.features)
        flops = 2.0 * predictor.weight.numel() * (len(batch.users) + (1 + modalities) * distinct)
        bytes_ += 4.0 * DIM * ((1 + modalities) * distinct + model.n_users + model.n_items)  # whole norms
    return bytes_, flops


def profile(folder: Path, name: str, epochs: int, rates: tuple[float, float]) -> None:
    """Prints one model's table."""
    data = gr.Dataset.load(folder / "dataset")
    kind = getattr(gr.models, MODELS[name])
    features = gr.FeatureStore(folder / "cache").load_tables(data) if kind.modalities else None
    settings = gr.TrainConfig(
        epochs=epochs + 1, batch_size=BATCH, patience=None, device="cpu", progress=False
    )
    plain = gr.Trainer(settings).fit(kind.build(data, features))
    bare = statistics.median(h["seconds/train"] for h in plain.history[1:])
    clock, model, found = Clock(), kind.build(data, features), []
    watch(clock, model)

    def keep(record: dict[str, float]) -> None:
        copy = {k: dict(getattr(clock, k)) for k in ("seconds", "calls", "bytes", "flops")}
        found.append((record["seconds/train"], copy))

    gr.Trainer(settings).fit(model, on_epoch=keep)
    found = sorted(found[1:], key=lambda f: f[0])  # the first epoch warms up
    whole, parts = found[len(found) // 2]
    print(f"\n{name}: an epoch of {whole:.3f} s (not watched: {bare:.3f} s)")
    titles = ("MB", 10), ("GFLOP", 8), ("floor ms", 10), ("ratio", 8)
    shown = "".join(f"{title:>{width}s}" for title, width in titles)
    print(f"{'part':38s}{'calls':>7s}{'ms':>9s}{'share':>8s}{shown}")
    for part in PARTS:
        if parts["seconds"].get(part, 0.0) < 5e-5:
            continue
        seconds, moved, flops = (parts[k].get(part, 0.0) for k in ("seconds", "bytes", "flops"))
        floor = max(moved / rates[0], flops / rates[1])
        ratio = f"{seconds / floor:.1f}" if floor else "-"
        print(
            f"{part:38s}{parts['calls'][part]:>7,}{1e3 * seconds:>9.1f}{seconds / whole:>8.1%}"
            f"{moved / 1e6:>10,.1f}{flops / 1e9:>8.1f}{1e3 * floor:>10.2f}{ratio:>8s}"
        )
    rest = whole - sum(parts["seconds"].values())
    print(
        f"{'rest: the loop, collecting losses':38s}{'':>7s}{1e3 * rest:>9.1f}{rest / whole:>8.1%}", flush=True
    )


def main() -> None:
    """Prints a table for each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["freedom", "bm3"], choices=MODELS)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1, help="1 is Amazon Baby's size")
    given = parser.parse_args()
    print(measure.machine())
    bandwidth, rate, _ = ceilings()
    print(f"ceilings: copy {bandwidth / 1e9:.1f} GB/s, matrix product {rate / 1e9:.0f} GFLOP/s in float32")
    with tempfile.TemporaryDirectory() as folder:
        catalog.save(Path(folder), given.scale)
        for name in given.models:
            with restored():
                profile(Path(folder), name, given.epochs, (bandwidth, rate))


@contextmanager
def restored() -> Iterator[None]:
    """Leaves the functions that are watched as they were."""
    kept = graphs._product, layers.ItemFeatures._project, layers._Projected.backward
    backward = trainer._Precision.backward
    try:
        yield
    finally:
        graphs._product = kept[0]
        layers.ItemFeatures._project = kept[1]  # type: ignore[method-assign]
        layers._Projected.backward = staticmethod(kept[2])  # type: ignore[method-assign]
        trainer._Precision.backward = backward  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
