"""What the experiment scripts share: grids selected on validation, seeds, one look at test, recorded results.

Every run is resumable: a finished one is read back, an interrupted one goes on from its last epoch. The test
split is evaluated once per selected configuration and seed, after training.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import graphrec as gr
from graphrec.atomic import read_json, write_json
from graphrec.environment import environment
from graphrec.errors import CheckpointError
from graphrec.evaluate import warm_cold
from graphrec.model import Features
from graphrec.models import model as model_class
from graphrec.report import Comparisons, Report, compare_all
from graphrec.store import FeatureTable

METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Candidate:
    """One row of the table: a model and the grid its options are chosen from, by validation, at the first
    seed.
    """

    label: str
    model: str
    grid: Sequence[Mapping[str, Any]] = ({},)
    train: Mapping[str, Any] = field(default_factory=dict)
    features: Sequence[str] | None = None
    """Which feature fields the model gets; None gives it all."""


def arguments(description: str, root: bool = True) -> argparse.ArgumentParser:
    """The options every experiment has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--root", default=None, help="folder with the datasets (default: $GRAPHREC_DATA, else data)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/experiments"), help="where runs are kept")
    parser.add_argument("--store", type=Path, default=Path("cache"), help="the feature store")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=None, help="seeds to run (default: the script's)"
    )
    parser.add_argument(
        "--models", nargs="+", default=None, help="labels to run; others are read back if finished"
    )
    parser.add_argument("--threads", type=int, default=None, help="torch threads")
    parser.add_argument("--quick", action="store_true", help="a few epochs, one seed: does it run at all?")
    return parser


def run(
    name: str,
    data: gr.Dataset,
    features: Features,
    candidates: Sequence[Candidate],
    options: argparse.Namespace,
    *,
    seeds: Sequence[int],
    baseline: str,
    cold: bool = False,
    published: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """Runs all candidates over all seeds, writes ``results/<name>.json`` and prints its table.

    Args:
        name: of the experiment.
        data: evaluated with train items masked, as the published tables do.
        features: feature tables by field.
        candidates: the rows.
        options: parsed :func:`arguments`.
        seeds: the script's seeds; ``--seeds`` overrides them.
        baseline: label that the others are compared with.
        cold: report warm and cold items too.
        published: label -> metric -> published value, shown beside.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.quick:
        name, seeds = f"{name}-quick", seeds[:1]
    seeds = options.seeds or list(seeds)
    folder = options.out / name
    study = _Study(data, features, folder, options.quick, cold)
    rows, reports = {}, {}
    for candidate in candidates:
        if (
            options.models
            and candidate.label not in options.models
            and not _finished(folder, candidate, seeds)
        ):
            continue
        best, tried = study.choose(candidate, seeds[0])
        runs, found = [], []
        for seed in seeds:
            facts, report = study.one(candidate, best, seed)
            runs.append(facts)
            found.append(report)
        reports[candidate.label] = _mean(found)
        rows[candidate.label] = {
            "model": candidate.model,
            "chosen": best,
            "grid": tried,
            "published": dict((published or {}).get(candidate.label, {})),
            "runs": runs,
        }
        print(f"{candidate.label}: {_row(rows[candidate.label])}", flush=True)
    result = {
        "experiment": name,
        "command": f"python -m experiments.{name.replace('-', '_')}",
        "dataset": data.summary(),
        "split": dict(data.meta).get("split"),
        "features": {
            f: {"extractor": t.meta.get("extractor"), "sha256": t.sha256, "items": int(t.present.sum())}
            for f, t in features.items()
        },
        "seeds": list(seeds),
        "masked": "train",
        "environment": environment(),
        "order": list(rows),
        "rows": rows,
        "comparisons": _comparisons(reports, baseline),
    }  # fmt: skip
    path = (options.out if options.quick else RESULTS) / f"{name.replace('-', '_')}.json"
    write_json(path, result)
    print(table(result))
    print(f"\nwritten: {path}")
    return result


def table(result: Mapping[str, Any]) -> str:
    """The markdown table of a recorded result: mean ± standard deviation over seeds, published values in
    brackets.
    """
    lines = [
        "| model | R@10 | R@20 | N@10 | N@20 | best epoch |",
        "|---|---|---|---|---|---|",
    ]
    rows = {label: result["rows"][label] for label in result["order"]}
    for label, row in rows.items():
        cells = []
        for metric in METRICS:
            values = [r["test"][metric] for r in row["runs"]]
            known = row["published"].get(metric)
            cells.append(_spread(values) + (f" [{known:.4f}]" if known else ""))
        epochs = " / ".join(str(r["best_epoch"]) for r in row["runs"])
        lines.append(f"| {label} | {' | '.join(cells)} | {epochs} |")
    for group in ("warm", "cold", "cold/within"):
        if any(f"items/{group}" in r["groups"] for row in rows.values() for r in row["runs"]):
            lines += ["", f"Items: {group}", "", "| model | R@20 | N@20 |", "|---|---|---|"]
            for label, row in rows.items():
                values = [r["groups"][f"items/{group}"] for r in row["runs"]]
                spread = [_spread([v[m] for v in values]) for m in ("recall@20", "ndcg@20")]
                lines.append(f"| {label} | {' | '.join(spread)} |")
    chosen = "; ".join(_chosen(label, row) for label, row in rows.items() if row["chosen"])
    lines += ["", f"Options (best of n: on validation, first seed): {chosen}."]
    lines += [
        "",
        "| recall@20, per-user means over seeds | difference | relative | 95 % interval | p (Holm) |",
        "|---|---|---|---|---|",
    ]
    for c in result["comparisons"]:
        low, high = c["interval"]
        lines.append(
            f"| {c['model']} vs {c['baseline']} | {c['difference']:+.4f} | {c['relative']:+.1%} "
            f"| [{low:+.4f}, {high:+.4f}] | {c['p_holm']:.2g} |"
        )
    return "\n".join(lines)


@dataclass(frozen=True)
class _Study:
    """What the trainings of one experiment have in common."""

    data: gr.Dataset
    features: Features
    folder: Path
    quick: bool
    cold: bool

    def choose(self, candidate: Candidate, seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The grid point with the best validation at one seed; all points with what they reached."""
        grid = [dict(g) for g in (candidate.grid[:1] if self.quick else candidate.grid)]
        if len(grid) == 1:
            return grid[0], []
        tried = [
            {"options": g, "seed": seed, "valid": self.train(candidate, g, seed).best_value} for g in grid
        ]
        return max(tried, key=lambda t: t["valid"])["options"], tried

    def about(self, candidate: Candidate) -> dict[str, Any]:
        """What a run is recognised by: the dataset and the features the model gets."""
        return {
            "dataset": {"name": self.data.name, "fingerprint": self.data.fingerprint},
            "features": {f: t.sha256 for f, t in self.given(candidate).items()},
        }

    def given(self, candidate: Candidate) -> dict[str, FeatureTable]:
        """The feature tables of one candidate."""
        fields = candidate.features or list(self.features)
        return {f: self.features[f] for f in fields} if model_class(candidate.model).modalities else {}

    def train(self, candidate: Candidate, options: Mapping[str, Any], seed: int) -> gr.Run:
        """One training; goes on where an interrupted one stopped, and returns a finished one."""
        chosen = model_class(candidate.model)
        model = chosen.build(self.data, self.given(candidate) or None, chosen.Config(**options, seed=seed))
        limits = {"epochs": 3} if self.quick else {}
        config = gr.TrainConfig(**{**candidate.train, "seed": seed, **limits})
        return gr.Trainer(config, out=_folder(self.folder, candidate, options, seed)).fit(
            model,
            validate=gr.RankingTask(self.data.valid, seen=self.data.train, k=20, metrics=("recall", "ndcg")),
            select="recall@20",
            resume=True,
            about=self.about(candidate),
        )

    def one(
        self, candidate: Candidate, options: Mapping[str, Any], seed: int
    ) -> tuple[dict[str, Any], Report]:
        """One training with its test report, read back if it is finished."""
        out = _folder(self.folder, candidate, options, seed)
        if (out / "facts.json").exists() and (out / "report.parquet").exists():
            before, now = read_json(out / "run.json"), self.about(candidate)
            if any(before.get(key) != value for key, value in now.items()):
                raise CheckpointError(
                    f"{out}: was run on other data or features; remove it, or choose another --out"
                )
            return read_json(out / "facts.json"), Report.from_parquet(out / "report.parquet")
        began = time.perf_counter()
        run = self.train(candidate, options, seed)
        report = gr.evaluate(
            run.model, self.data.test, seen=self.data.train, metrics=("recall", "ndcg"),
            item_groups=warm_cold(self.data.train) if self.cold else None, within=self.cold,
            name=candidate.label,
        )  # fmt: skip
        report.to_parquet(out / "report.parquet")
        facts = {
            "seed": seed,
            "best_epoch": run.best_epoch,
            "epochs": len(run.history),
            "seconds": run.seconds,
            "wall": time.perf_counter() - began,
            "valid": {"recall@20": run.best_value},
            "test": report.mean(),
            "groups": {n: g.mean() for n, g in report.groups.items()},
        }
        write_json(out / "facts.json", facts)
        return facts, report


def _folder(folder: Path, candidate: Candidate, options: Mapping[str, Any], seed: int) -> Path:
    point = "-".join(f"{k}={v}" for k, v in sorted(options.items())) or "default"
    return folder / candidate.label.replace(" ", "_") / point / f"seed-{seed}"


def _finished(folder: Path, candidate: Candidate, seeds: Sequence[int]) -> bool:
    return any(
        all((_folder(folder, candidate, g, s) / "facts.json").exists() for s in seeds) for g in candidate.grid
    )


def _mean(reports: Sequence[Report]) -> Report:
    """Per-user means over seeds, so that users stay the unit of the paired test."""
    first = reports[0]
    return Report(
        first.users, {m: np.mean([r[m] for r in reports], axis=0) for m in METRICS}, meta=first.meta
    )


def _comparisons(reports: Mapping[str, Report], baseline: str) -> list[dict[str, Any]]:
    if baseline not in reports or len(reports) < 2:
        return []
    found: Comparisons = compare_all(reports, "recall@20", baseline=baseline)
    return [json.loads(json.dumps(vars(c))) for c in found]


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.4f}" + (f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else "")


def _chosen(label: str, row: Mapping[str, Any]) -> str:
    """One model's options, and among how many points they were chosen."""
    options = ", ".join(f"{k}={v}" for k, v in row["chosen"].items())
    return f"{label} {options}" + (f" (best of {len(row['grid'])})" if row["grid"] else "")


def _row(row: Mapping[str, Any]) -> str:
    return (
        ", ".join(f"{m} {_spread([r['test'][m] for r in row['runs']])}" for m in METRICS)
        + f"  {row['chosen']}"
    )
