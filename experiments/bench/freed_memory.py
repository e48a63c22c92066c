"""Training steps with freed memory kept and with freed memory given back to the system, in turn.

    python -m experiments.bench.freed_memory [--threads 1]

LightGCN with 4 layers on generated interactions, twice Amazon Baby's counts and so about Amazon Sports',
batches of 2,048; each line is a process of its own. ``faults`` are pages that the system handed out during a
step, zeroed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

SCALE = 2
STEPS, WARMUP, REPEATS = 40, 5, 3
CASES = {"given back": "give-back", "kept": "keep"}


def steps(keep: bool) -> dict[str, float]:
    """Milliseconds, processor milliseconds and page faults of a step in this process."""
    import torch

    import graphrec as gr
    from experiments.bench import catalog
    from graphrec.core.memory import keep_freed_memory
    from graphrec.models.batches import EpochContext

    if keep:
        keep_freed_memory()
    train = catalog.dataset(SCALE).train
    model = gr.models.LightGCN(train, gr.models.LightGCN.Config(n_layers=4))
    adam = model.optimizer(gr.TrainConfig())
    model.train()
    times = []
    for n, batch in zip(range(WARMUP + STEPS), model.batches(EpochContext(1, 2048, 0)), strict=False):
        if n == WARMUP:
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            processor = time.process_time()
        began = time.perf_counter()
        loss = torch.stack(list(model.loss(batch).values())).sum()
        torch.autograd.backward(loss)
        adam.step()
        adam.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - began)
    return {
        "ms": 1e3 * statistics.median(times[WARMUP:]),
        "processor": 1e3 * (time.process_time() - processor) / STEPS,
        "faults": (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults) / STEPS,
    }


def in_new_process(case: str, threads: int) -> dict[str, Any]:
    """:func:`steps` in a process of its own, without settings of the allocator from outside."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-m", "experiments.bench.freed_memory", "--case", case]
    done = subprocess.run(
        [*command, "--threads", str(threads)], stdout=subprocess.PIPE, text=True, check=True, env=own
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> None:
    """Prints the table."""
    import torch

    from experiments.bench.measure import machine

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--case", choices=sorted(CASES.values()), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.case:
        print(json.dumps(steps(options.case == "keep")))
        return
    print(machine())
    print(f"{'freed memory is':18s}{'a step':>10s}{'processor':>12s}{'faults':>10s}")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CASES}
    for _ in range(REPEATS):
        for name, case in CASES.items():
            r = in_new_process(case, options.threads)
            found[name].append(r)
            print(f"{name:18s}{r['ms']:7.1f} ms{r['processor']:9.1f} ms{r['faults']:10,.0f}", flush=True)
    for what in ("ms", "processor"):
        before, after = (statistics.median(r[what] for r in found[name]) for name in CASES)
        print(f"kept / given back, {'a step' if what == 'ms' else 'processor'}: {after / before:.2f}")


if __name__ == "__main__":
    main()
