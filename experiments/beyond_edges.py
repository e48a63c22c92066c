"""What do the tables that were tuned within a grid miss beyond its edges?

Where the best recorded trial of a model has an option at an edge of its search space, training goes on beyond
it as :func:`graphrec.tune` does: one step at a time, from the best value on validation so far, until none is
better. The dataset, features, seed and other options are those of the recorded trials.

    python -m experiments.beyond_edges             # every model with such a trial
    python -m experiments.beyond_edges --quick     # one epoch
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import graphrec as gr
from experiments import harness
from experiments.content import features_of_dataset
from experiments.recording import RESULTS, read_result, write_result
from experiments.rows import defaults
from graphrec.core.files import read_json
from graphrec.models import model as model_class
from graphrec.runs.tuning.study import Study, Trial
from graphrec.runs.tuning.tuner import EXTEND, steps_beyond

COMMAND = "python -m experiments.beyond_edges"
DATASETS = {
    "amazon_scientific": "amazon-scientific",
    "movielens_small": "movielens-small",
    "xwines": "xwines",
}
"""Name of the record -> dataset."""


def study_of(row: Mapping[str, Any]) -> Study:
    """The recorded trials of a row as a study."""
    trials = [
        Trial(
            n, Path(), "finished", t["value"], t["options"], {}, {}, seed=0, beyond=t.get("beyond", "")
        )
        for n, t in enumerate(row["trials"])
    ]  # fmt: skip
    return Study(Path(), row["model"], harness.SELECT, trials)


def next_step(row: Mapping[str, Any], study: Study) -> tuple[str, dict[str, Any]] | None:
    """The option that the best trial has at an edge, and the options of the trial beyond it; None if there
    is none, or as many as :func:`graphrec.tune` would make.
    """
    if sum(bool(trial.beyond) for trial in study.trials) >= EXTEND:
        return None
    searched = study.best.options
    space = {k: v for k, v in model_class(row["model"]).search_space.items() if k in searched}
    own, train = harness.divided({k: v for k, v in row["options"].items() if k not in searched})
    return next(iter(steps_beyond(study, space, own, train)), None)


def at_an_edge(result: Mapping[str, Any]) -> list[str]:
    """Labels of the rows of a record that were tuned within their grid and end at an edge of it."""
    return [
        label
        for label in result["order"]
        if (row := result["rows"][label])["group"] == "main"
        and len(row["trials"]) > 1
        and not any("beyond" in trial or "of" in trial for trial in row["trials"])
        and next_step(row, study_of(row)) is not None
    ]


def steps(name: str, label: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The trials of a row beyond the edges of its search space: option, values and validation metric.

    Args:
        name: of the record.
        label: of the row.
        options: parsed.
    """
    recorded = read_result(RESULTS / f"{name}.json")
    data = gr.load_dataset(DATASETS[name], root=options.root)
    tables = features_of_dataset(data, options.root, options.store, options.quick)
    train = gr.TrainConfig(
        **harness.completed(recorded["defaults"]["train"]), checkpoint_every=20, progress=False
    )
    experiment = harness.Experiment(name, COMMAND, data, tables, defaults(train), [0], label)
    trainings = harness.Study(experiment, options.out / "beyond_edges", options.quick)
    row, facts = experiment.row(label), recorded["rows"][label]
    study = study_of(facts)
    while (step := next_step(facts, study)) is not None:
        option, tried = step
        before = study.best.options[option]
        chosen = {**recorded["defaults"][facts["model"]], **facts["options"], **tried}
        one = replace(row, label=f"{label} {option} {tried[option]}")
        value = trainings.fitted(one, chosen, 0).best_value
        study.trials.append(
            Trial(len(study.trials), Path(), "finished", value, tried, {}, {}, seed=0, beyond=option)
        )
        yield {"option": option, "from": before, "to": tried[option], "value": value}


def main() -> None:
    """Trains beyond every edge, records what came of it and prints the table."""
    parser = harness.options_of_all(__doc__ or "", "1 epoch")
    parser.add_argument("--store", type=Path, default=Path("cache"), help="the feature store")
    parser.add_argument("--tables", nargs="+", default=list(DATASETS), choices=DATASETS, help="these only")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    path = (options.out / "quick" if options.quick else RESULTS) / "beyond_edges.json"
    before = read_json(path)["trials"] if path.exists() else []
    rows = [row for row in before if row["table"] not in options.tables]
    for name in options.tables:
        recorded = read_result(RESULTS / f"{name}.json")
        for label in at_an_edge(recorded):
            found = list(steps(name, label, options))
            print(f"{name}, {label}: {found}", flush=True)
            best = study_of(recorded["rows"][label]).best.value
            rows.append({"table": name, "model": label, "value": best, "steps": found})
    result = {"command": COMMAND + (" --quick" if options.quick else ""), "metric": harness.SELECT,
              "trials": rows}  # fmt: skip
    write_result(path, result)
    print(f"{table(read_json(path))}\n\nwritten: {path}")


def table(result: Mapping[str, Any]) -> str:
    """The recorded numbers as Markdown."""
    lines = [
        "| dataset | model | option | at the edge | beyond | best in the grid | beyond | difference |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in result["trials"]:
        for step in row["steps"]:
            gain = step["value"] / row["value"] - 1
            lines.append(
                f"| {DATASETS[row['table']]} | {row['model']} | `{step['option']}` | {step['from']:g} | "
                f"{step['to']:g} | {row['value']:.4f} | {step['value']:.4f} | {gain:+.1%} |"
            )
    note = f"{result['metric']} on validation, one seed. `{result['command']}`"
    return "\n".join([*lines, "", note])


if __name__ == "__main__":
    main()
