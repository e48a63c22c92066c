"""Git histories at scale: mining generated commits, and an epoch of CODER on 100,000 files.

    python -m experiments.bench.histories
    python -m experiments.bench.histories --commits 10000 --files 10000 --contributions 60000

A repository of the commits asked for is made with ``git fast-import`` (who wrote what is drawn), and mined;
the floor is ``git log`` with the same options, its output thrown away. CODER gets generated files in a
generated tree with random vectors for contents; an epoch is timed by its steps after the first, and what
takes time that grows with all files is computed every ``refresh_every`` steps.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from experiments.bench import measure
from graphrec.code.models.coder import CODER
from graphrec.core.random import numpy_rng
from graphrec.data import Dataset, Interactions, Vocabulary
from graphrec.data.git.log import Repository
from graphrec.data.git.mining import MiningConfig, mine
from graphrec.data.git.people import People
from graphrec.data.repositories import tree_of
from graphrec.features import FeatureTable
from graphrec.models.batches import EpochContext

WORDS = 64  # values of a segment's vector


def repository(path: Path, commits: int, files: int) -> None:
    """A bare repository; every commit is by one of 2,000 people and touches one to five files."""
    rng = numpy_rng(0, "bench/histories")
    person = (rng.pareto(1.0, commits) * 20).astype(int) % 2000
    many = rng.integers(1, 6, commits)
    touched = (rng.pareto(0.8, int(many.sum())) * 50).astype(int) % files
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(path)], check=True)
    with subprocess.Popen(
        ["git", "-C", str(path), "fast-import", "--quiet"], stdin=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        at = 0
        for i in range(commits):
            who = f"Person {person[i]} <p{person[i]}@bench.test> {1_400_000_000 + 600 * i} +0000"
            lines = [
                "commit refs/heads/main",
                f"mark :{i + 1}",
                f"author {who}",
                f"committer {who}",
                "data 1\nx",
            ]
            if i:
                lines.append(f"from :{i}")
            for file in np.unique(touched[at : at + many[i]]):
                content = f"{i} {file}"
                lines.append(
                    f"M 100644 inline d{file % 97}/e{file % 11}/f{file}.py\ndata {len(content)}\n{content}"
                )
            at += int(many[i])
            process.stdin.write(("\n".join(lines) + "\n").encode())
    if process.returncode:
        raise SystemExit(f"git fast-import ended with status {process.returncode}")


def generated(users: int, files: int, contributions: int) -> tuple[Dataset, FeatureTable]:
    """People who keep to one of fifty repositories, files in folders of twenty."""
    rng = numpy_rng(0, "bench/contributions")
    home, repositories = rng.integers(0, 50, users), 50
    who = rng.integers(0, users, 2 * contributions)
    what = (rng.pareto(0.6, len(who)) * 100).astype(np.int64) % (files // repositories)
    what = what * repositories + home[who]
    keys = np.unique(who.astype(np.int64) * files + what)
    keys = np.sort(rng.permutation(keys)[:contributions])
    train = Interactions(keys // files, keys % files, users, files)
    none = train.where(np.zeros(len(train), dtype=bool))
    places = [(i % repositories, [f"p{i // 1000 % 9}", f"q{i // 1000}", f"f{i}.py"]) for i in range(files)]
    nodes, relations = tree_of(places, [f"r{i}" for i in range(repositories)])
    done = np.unique(np.stack([train.users, train.items % repositories]), axis=1).astype(np.int32)
    data = Dataset(
        "generated", Vocabulary([f"u{i}" for i in range(users)], "user"),
        Vocabulary([f"f{i}" for i in range(files)], "item"), train, none, none,
        nodes=nodes, relations={**relations, ("user", "authored", "repository"): done},
    )  # fmt: skip
    values = rng.standard_normal((files, 8 * WORDS), dtype=np.float32)
    return data, FeatureTable.from_array(values, data, "code")


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commits", type=int, default=100_000)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--contributions", type=int, default=600_000)
    parser.add_argument("--steps", type=int, default=25, help="timed steps of CODER")
    chosen = parser.parse_args()
    print(measure.machine())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made"
        repository(path, chosen.commits, 20_000)
        began = time.perf_counter()
        subprocess.run(
            ["git", "-C", str(path), "log", "--topo-order", "--raw", "-z", "--no-abbrev", "--no-merges",
             "--find-renames=100%", "--root"],
            stdout=subprocess.DEVNULL, check=True,
        )  # fmt: skip
        least = time.perf_counter() - began
        with measure.spent() as took:
            mined = mine(Repository(path), "made", People(), MiningConfig())
        print(
            f"mining {chosen.commits:,} commits: {took.seconds:.1f} s, git log alone {least:.1f} s, ratio "
            f"{took.seconds / least:.1f}; {len(mined.times):,} contributions, "
            f"{took.extra / measure.GIB:.2f} GiB beyond what was there"
        )
    data, table = generated(chosen.users, chosen.files, chosen.contributions)
    print(f"{data.n_users:,} users, {data.n_items:,} files, {len(data.train):,} contributions")
    for refresh, among, batch in ((8, "batch", 1024), (8, "batch", 4096)):
        config = CODER.Config(refresh_every=refresh, contrast_among=among)
        with measure.spent() as took:
            model = CODER.build(data, {"code": table}, config)
            optimizer = torch.optim.Adam(model.parameters(), fused=True)
            model.train()
            model.start_epoch(numpy_rng(0, "bench/start"))
            steps, clock = -(-len(data.train) // batch), [0.0]
            for number, made in enumerate(model.batches(EpochContext(1, batch, 0))):
                if number % 8 == 0 and number > chosen.steps:
                    break
                optimizer.zero_grad()
                torch.stack(list(model.loss(made).values())).sum().backward()
                optimizer.step()
                clock.append(time.perf_counter())
        step = float(np.mean(np.diff(clock[refresh:])))
        print(
            f"CODER, batches of {batch:,}, refreshed every {refresh} steps, contrast among the {among}: "
            f"{step:.2f} s a step, {step * steps / 60:.1f} minutes an epoch of {steps:,}; peak "
            f"{took.peak / measure.GIB:.1f} GiB"
        )


if __name__ == "__main__":
    main()
