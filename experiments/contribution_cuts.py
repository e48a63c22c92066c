"""Git histories under global time cuts: what was known at a time recommends what was done after it.

The contributions are cut at several times, evenly spaced over the second half of all contributions in the
order of time. For each cut, everything before it is known and the stretch up to the next cut is the test.
Options and epochs are chosen on the stretch before the cut, by models of what came before that stretch; then
each model is trained again on everything before the cut. The cut is the unit of means and intervals.

Run by ``python -m experiments.contributions``.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

import graphrec as gr
from experiments.harness import QUICK, divided, folder_of
from experiments.recording import RESULTS, write_result
from experiments.time_splits import later_share
from graphrec.core.environment import environment
from graphrec.core.files import read_json, write_json
from graphrec.evaluation.candidates import CandidateGroups
from graphrec.evaluation.ranking import RankingTask
from graphrec.features import FeatureStore
from graphrec.features.extract import extractor
from graphrec.features.extract.extraction import extract
from graphrec.models import model as model_class

SELECT = "ndcg@10"
METRICS = ("ndcg", "hit", "mrr")
BASELINE = "Popularity"
N_CUTS = 6
PER_PERSON = {"name": "chronological", "valid": 0.1, "test": 0.2}
ALL = {"name": "chronological", "valid": 0.0, "test": 0.0}
Load = Callable[[Mapping[str, Any]], gr.Dataset]
"""Reads the contributions with a split."""


@dataclass(frozen=True)
class CutRow:
    """A model and the options among which validation chooses, separately for each cut.

    Attributes:
        label: its name in the table.
        model: a registered name.
        grid: options; those of training begin with ``train.``.
        train: options of training of all of them.
        every: takes every so many-th cut, as training takes long.
    """

    label: str
    model: str
    grid: tuple[Mapping[str, Any], ...] = ({},)
    train: gr.TrainConfig = field(default_factory=gr.TrainConfig)
    every: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Cut:
    """One cut.

    Attributes:
        number: from 0.
        valid: where the stretch begins on which options are chosen, in seconds.
        test: the cut.
        end: where the test ends.
    """

    number: int
    valid: float
    test: float
    end: float


def cuts_of(seconds: np.ndarray, n: int = N_CUTS) -> list[Cut]:
    """Cuts with equal numbers of contributions ``(E,)`` in between, the first after half of them."""
    ordered = np.sort(seconds)
    places = [round(len(ordered) * (0.5 + 0.5 * i / n)) for i in range(-1, n)]
    times = [float(ordered[place]) for place in places] + [float(ordered[-1]) + 1]
    return [Cut(i, *times[i : i + 3]) for i in range(n)]


def run(
    name: str, command: str, load: Load, text: str, rows: Sequence[CutRow], options: argparse.Namespace
) -> None:
    """Measures all rows at all cuts, writes ``results/<name>.json`` and prints the table.

    Args:
        name: of the result.
        command: the command that makes it.
        load: reads the contributions.
        text: the field that tells what files say.
        rows: the models.
        options: parsed arguments.
    """
    study = Study(load, text, options, options.out / ("quick" if options.quick else "") / name)
    cuts = cuts_of(load(ALL).train.seconds)[: 2 if options.quick else None]
    found: dict[str, Any] = {}
    for row in rows:
        if (options.rows and row.label not in options.rows) or row.label in options.without:
            continue
        runs = [study.one(row, cut) for cut in cuts if cut.number % row.every.get(name, 1) == 0]
        found[row.label] = {"model": row.model, "grid": [dict(g) for g in row.grid], "runs": runs}
        print(f"{name}, {row.label}: {[round(r['after'][SELECT], 4) for r in runs]}", flush=True)
    if options.rows:
        return
    per_person = load(PER_PERSON)
    result = {
        "experiment": name,
        "later": later_share(per_person.train, per_person.test),
        "command": command
        + (f" --without {shlex.join(options.without)}" if options.without else "")
        + (" --quick" if options.quick else ""),
        "text": text,
        "cuts": [study.facts_of(cut) for cut in cuts],
        "environment": environment(),
        "order": list(found),
        "rows": found,
    }
    path = (options.out / "quick" if options.quick else RESULTS) / f"{name}.json"
    write_result(path, result)
    result = read_json(path)
    print(f"{about(result)}\n\n{table(result)}\n\nwritten: {path}")


class Study:
    """What the measurements of one history have in common.

    Args:
        load: reads the contributions.
        text: the field that tells what files say.
        options: parsed arguments.
        folder: where finished measurements are kept.
    """

    def __init__(self, load: Load, text: str, options: argparse.Namespace, folder: Path) -> None:
        self.load, self.text, self.options, self.folder = load, text, options, folder
        self._data: dict[tuple[float, float], gr.Dataset] = {}

    def before(self, cut: Cut) -> gr.Dataset:
        """What options are chosen with: train and the stretch before the cut, which is valid."""
        return self._read(cut.valid, cut.test)

    def at(self, cut: Cut) -> gr.Dataset:
        """Everything before the cut as train; test is the stretch after it."""
        data = self._read(cut.test, cut.test)
        return data.with_splits(data.train, data.valid, data.test.where(data.test.seconds < cut.end, "test"))

    def _read(self, valid: float, test: float) -> gr.Dataset:
        if (valid, test) not in self._data:
            self._data[valid, test] = self.load({"name": "cut", "valid": valid, "test": test})
        return self._data[valid, test]

    def facts_of(self, cut: Cut) -> dict[str, Any]:
        """Times (commits have whole seconds) and counts of a cut."""
        data = self.at(cut)
        own = CandidateGroups.from_repositories(data)
        ranked = own.contains(data.test.users, data.test.items)
        return {
            "valid": int(cut.valid), "test": int(cut.test), "end": int(cut.end),
            "people": data.n_users, "files": data.n_items, "train": len(data.train),
            "tested people": len(np.unique(data.test.users[ranked])), "tested": int(ranked.sum()),
        }  # fmt: skip

    def one(self, row: CutRow, cut: Cut) -> dict[str, Any]:
        """One row at one cut, read back if it is finished."""
        path = self.folder / folder_of(row.label) / f"cut-{cut.number}.json"
        if path.exists():
            found: dict[str, Any] = read_json(path)
            return found
        before = self.before(cut)
        validate = RankingTask(before.valid, seen=before.train, k=(10,), metrics=("ndcg",),
                               candidate_groups=CandidateGroups.from_repositories(before))  # fmt: skip
        tried = [self._fit(row, before, options, validate=validate) for options in row.grid]
        values = [run.best_value or 0.0 for run in tried]
        best, chosen = max(zip(tried, row.grid, strict=True), key=lambda pair: pair[0].best_value or 0.0)
        at = self.at(cut)
        final = self._fit(row, at, chosen, stop_after=max(1, best.best_epoch))
        own = CandidateGroups.from_repositories(at)
        report = gr.evaluate(final.model, at.test, seen=at.train, k=(5, 10, 20), metrics=METRICS,
                             candidate_groups=own, progress=False)  # fmt: skip
        facts = {"cut": cut.number, "chosen": dict(chosen), "valid": best.best_value, "tried": values,
                 "best_epoch": best.best_epoch, "epochs": len(best.history),
                 "seconds": sum(run.seconds for run in [*tried, final]), "after": report.mean()}  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, facts)
        return read_json(path)

    def _fit(
        self, row: CutRow, data: gr.Dataset, options: Mapping[str, Any],
        validate: RankingTask | None = None, stop_after: int | None = None,
    ) -> gr.Run:  # fmt: skip
        cls = model_class(row.model)
        own, of_training = divided(options)
        config = cls.Config(**own, seed=0)
        table = None
        if cls.needs_features(config):
            made = extractor("code-segments", min_texts=1)
            table = {self.text: extract(data, self.text, made, FeatureStore(self.options.store))}
        train = row.train.replace(
            seed=0, progress=False, stop_after=stop_after,
            **of_training,
            **({"epochs": QUICK["epochs"]} if self.options.quick else {}),
        )  # fmt: skip
        return gr.Trainer(train).fit(cls.build(data, table, config), validate, SELECT if validate else None)


# -- tables --------------------------------------------------------------------------------------------------


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval over cuts, by Student's t; the interval is the mean itself for one cut."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, mean, mean
    half = float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half


def about(result: Mapping[str, Any]) -> str:
    """A paragraph: what was run, on what."""
    cuts = result["cuts"]
    dates = [str(np.datetime64(int(cut["test"]), "s"))[:10] for cut in cuts]
    low, high = (f"{f(cut['train'] for cut in cuts):,}" for f in (min, max))
    people = " / ".join(str(cut["tested people"]) for cut in cuts)
    text = "contents" if result["text"] == "code" else "words of the paths (there are no contents)"
    return (
        f"{len(cuts)} cuts at {', '.join(dates)}; train: {low} to {high} contributions; people in the test: "
        f"{people}; text: {text}; one seed a cut. (Split per person, {result['later']:.0%} of train lies "
        f"after a person's first test contribution.) `{result['command']}`"
    )


def table(result: Mapping[str, Any]) -> str:
    """The models: means over cuts with intervals, and NDCG@10 less that of popularity at the same cuts."""
    base = {run["cut"]: run["after"][SELECT] for run in result["rows"][BASELINE]["runs"]}
    n = len(result["cuts"])
    heads = ["model", "N@10", "Hit@10", "MRR@10", f"N@10 less {BASELINE.lower()}", "better at", *(
        f"cut {i + 1}" for i in range(n))]  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for label in result["order"]:
        runs = result["rows"][label]["runs"]
        at = {run["cut"]: run["after"] for run in runs}
        cells = [label]
        for metric in (SELECT, "hit@10", "mrr@10"):
            mean, low, high = interval([test[metric] for test in at.values()])
            cells.append(f"{mean:.4f} [{low:.4f}, {high:.4f}]" if metric == SELECT else f"{mean:.4f}")
        less = [test[SELECT] - base[cut] for cut, test in at.items()]
        mean, low, high = interval(less)
        better = f"{sum(d > 0 for d in less)} of {len(less)} cuts"
        cells += ["", ""] if label == BASELINE else [f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]", better]
        cells += [f"{at[i][SELECT]:.3f}" if i in at else "" for i in range(n)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def choices(*results: Mapping[str, Any]) -> str:
    """NDCG@10 before the cuts, of all options of the rows without training, to choose from."""
    names = [result["experiment"].rpartition("_")[2].upper() for result in results]
    lines = [f"| model | options | {' | '.join(names)} | mean |", "|---" * (len(names) + 3) + "|"]
    for label in results[0]["order"]:
        rows = [result["rows"][label] for result in results]
        if any(run["best_epoch"] for row in rows for run in row["runs"]):
            continue
        for place, options in enumerate(rows[0]["grid"]):
            means = [float(np.mean([run["tried"][place] for run in row["runs"]])) for row in rows]
            given = ", ".join(f"`{name}` {value:g}" for name, value in options.items())
            cells = [f"{mean:.4f}" for mean in (*means, float(np.mean(means)))]
            lines.append(f"| {label} | {given} | {' | '.join(cells)} |")
    return "\n".join(lines)
