"""Models without content on published splits, beside what was published for them.

SSLRec's Yelp and RLMRec's Amazon-book and Yelp have a validation part. They follow SSLRec's protocol:
validation every third epoch, the epoch chosen by recall@10, train items masked, validation items candidates
at test. The settings of LightGCN, SGL and NCL on SSLRec's Yelp are those its maintainer found by a grid
(https://github.com/HKUDS/SSLRec/issues/32); other models have our defaults at its dimensions and batch.

Gowalla in the split of LightGCN has no validation part. A tenth of train is taken out to choose the epoch on,
and the model is then trained on all of train for as many epochs; both are shown. Models in closed form are
fitted on all of train with the settings that the authors give for this dataset: how these were chosen is
unknown or was by the test pairs, so their rows show that the formulas are the published ones, and say nothing
about which model is best.

Trainings are resumable, finished ones are read back, and rows are put into the recorded result.

    python -m experiments.published_splits sslrec-yelp --rows LightGCN SGL --seeds 0
    python -m experiments.published_splits rlmrec-amazon-book --rows EASE GF-CF LightGCN
    python -m experiments.published_splits gowalla --rows GF-CF BSPM-EM      # some minutes
    python -m experiments.published_splits gowalla --steps 20   # how long LightGCN and UltraGCN would take
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch

import graphrec as gr
from experiments.harness import QUICK, folder_of, options_of_all
from experiments.recording import RESULTS, read_result, write_result
from experiments.rendering import spread
from graphrec.core.environment import environment
from graphrec.core.files import read_json, write_json
from graphrec.core.memory import keep_freed_memory
from graphrec.models import model as model_class
from graphrec.models.batches import EpochContext

COMMAND = "python -m experiments.published_splits"
PREFIX = "published_"
"""Of the names of results."""
TRAIN = gr.TrainConfig(batch_size=4096, patience=5, patience_steps=0, validate_every=3, checkpoint_every=3)
SSLREC = {"readout": "sum", "regularizer": "all_squares", "dim": 32}
SELECT = "recall@10"
METRICS = ("recall@10", "recall@20", "ndcg@20")
CUTS = (10, 20)
NONE: Mapping[str, float] = MappingProxyType({})


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        model: its registered name.
        options: of the model.
        published: metric -> published value.
    """

    model: str
    options: Mapping[str, Any]
    published: Mapping[str, float] = NONE


class Split(NamedTuple):
    """A published split.

    Attributes:
        reader: its registered name.
        options: of the reader.
        train: options of training.
        rows: label -> row.
        whole: options of the reader with which nothing is taken out of train to validate on; None where the
            split has a validation part.
    """

    reader: str
    options: Mapping[str, Any]
    train: gr.TrainConfig
    rows: Mapping[str, Row]
    whole: Mapping[str, Any] | None = None


AT_32 = {
    "SimGCL": Row("simgcl", {"dim": 32}),
    "XSimGCL": Row("xsimgcl", {"dim": 32}),
    "DirectAU": Row("directau", {"dim": 32}),
    "LightGCL": Row("lightgcl", {"dim": 32}),
    "HCCF": Row("hccf", {"dim": 32}),
    "DCCF": Row("dccf", {"dim": 32}),
    "AutoCF": Row("autocf", {"dim": 32}),
    "GFormer": Row("gformer", {"dim": 32}),
}
"""Models at our defaults but for the dimensions."""
CLOSED_FORM = {
    "Popularity": Row("popularity", {}),
    "EASE": Row("ease", {"reg_weight": 50.0}),
    "GF-CF": Row("gf-cf", {"rank": 256, "alpha": 0.3}),
}
GRAPHS = {
    "LightGCN": Row("lightgcn", {"dim": 32, "n_layers": 2, "reg_weight": 1e-4}),
    "SGL": Row(
        "sgl",
        {
            **SSLREC, "n_layers": 2, "views": "entries", "redraw": "step", "dropout": 0.5,
            "contrast_negatives": True, "contrast_weight": 1.0, "temperature": 0.5, "reg_weight": 1e-5,
        },
    ),
    "NCL": Row(
        "ncl",
        {
            **SSLREC, "temperature": 1.0, "contrast_layer": 4, "contrast_weight": 1e-3,
            "prototype_weight": 1e-2, "reg_weight": 1e-7,
        },
    ),
}  # fmt: skip
SSLREC_YELP = {
    "LightGCN": {"recall@10": 0.0450, "recall@20": 0.0713, "ndcg@20": 0.0351},
    "SGL": {"recall@10": 0.0556, "recall@20": 0.0850, "ndcg@20": 0.0428},
    "NCL": {"recall@10": 0.0471, "recall@20": 0.0753, "ndcg@20": 0.0374},
}
"""https://github.com/HKUDS/SSLRec/issues/32"""
GOWALLA = {
    "EASE": Row("ease", {"reg_weight": 15.9}, {"recall@20": 0.1765, "ndcg@20": 0.1467}),
    "GF-CF": Row("gf-cf", {"rank": 256, "alpha": 0.3}, {"recall@20": 0.1849, "ndcg@20": 0.1518}),
    "BSPM-EM": Row("bspm", {"rank": 448, "beta": 0.2, "time": 2.5}, {"recall@20": 0.1920, "ndcg@20": 0.1597}),
    "LightGCN": Row(
        "lightgcn", {"n_layers": 3, "reg_weight": 1e-4}, {"recall@20": 0.1830, "ndcg@20": 0.1554}
    ),
    "UltraGCN": Row("ultragcn", {}, {"recall@20": 0.1862, "ndcg@20": 0.1580}),
    "SimGCL": Row("simgcl", {"contrast_weight": 0.5}),
    "XSimGCL": Row("xsimgcl", {}),
    "DirectAU": Row("directau", {}),
}
"""EASE and GF-CF: the BARS leaderboard (https://openbenchmark.github.io/BARS), with the penalty of
https://github.com/sisinflab/Graph-RSs-Reproducibility. BSPM-EM: the table of the paper
(https://arxiv.org/abs/2211.09324). LightGCN: https://github.com/gusye1234/LightGCN-PyTorch. UltraGCN: the log
of https://github.com/xue-pai/UltraGCN. SimGCL at its authors' weight."""
EPOCHS = {"LightGCN": (2048, 1000), "UltraGCN": (512, 634)}
"""Batch size and epochs of the published rows on Gowalla; UltraGCN's are the best epoch of its log."""

WITH_VALIDATION = {**CLOSED_FORM, **GRAPHS, **AT_32}
SPLITS = {
    "sslrec-yelp": Split(
        "sslrec-yelp", {}, TRAIN,
        {
            label: row._replace(published=SSLREC_YELP.get(label, NONE))
            for label, row in WITH_VALIDATION.items()
        },
    ),
    "rlmrec-amazon-book": Split("rlmrec", {"catalog": "amazon-book"}, TRAIN, WITH_VALIDATION),
    "rlmrec-yelp": Split("rlmrec", {"catalog": "yelp"}, TRAIN, WITH_VALIDATION),
    "gowalla": Split(
        "gowalla", {"valid_share": 0.1}, TRAIN.replace(batch_size=2048, validate_every=1), GOWALLA,
        whole={"valid_share": 0},
    ),
}  # fmt: skip


def split_of(result: Mapping[str, Any]) -> Split:
    """The split of a recorded result."""
    return SPLITS[result["experiment"].removeprefix(PREFIX).replace("_", "-")]


def fitted(data: gr.Dataset, row: Row, train: gr.TrainConfig, seed: int, out: Path) -> gr.Run:
    """One training, resumed where it was interrupted; without a validation part, all its epochs."""
    cls = model_class(row.model)
    model = cls.build(data, None, cls.Config(**row.options, seed=seed))
    own = {k: v for k, v in cls.train_defaults.items() if k not in ("batch_size", "patience", "epochs")}
    task = gr.RankingTask(data.valid, seen=data.train, metrics=(SELECT,)) if len(data.valid) else None
    return gr.Trainer(train.replace(**own, seed=seed), out=out).fit(model, validate=task, resume=True)


def tested(data: gr.Dataset, model: Any) -> dict[str, float]:
    """Test metrics, with train items masked."""
    return gr.evaluate(model, data.test, seen=data.train, metrics=("recall", "ndcg"), k=CUTS).mean()


def one(
    parts: Mapping[str, gr.Dataset], row: Row, train: gr.TrainConfig, seed: int, out: Path
) -> dict[str, Any]:
    """A seed of a row; a finished one is read back.

    Args:
        parts: ``"split"``, and ``"whole"`` where its validation part was taken out of train.
        row: the model.
        train: options of training.
        seed: of the training.
        out: where it is kept.
    """
    facts = out / "facts.json"
    if facts.exists():
        return dict(read_json(facts))
    began = time.perf_counter()
    run = fitted(parts["split"], row, train, seed, out / "split")
    found: dict[str, Any] = {
        "seed": seed,
        "best_epoch": run.best_epoch,
        "seconds": run.seconds or time.perf_counter() - began,
        "valid": {SELECT: run.best_value},
        "test": tested(parts["split"], run.model),
    }
    if "whole" in parts:
        again = train.replace(epochs=max(1, run.best_epoch))
        whole = fitted(parts["whole"], row, again, seed, out / "whole")
        of_whole = tested(parts["whole"], whole.model)
        found["whole"] = {metric: of_whole[metric] for metric in METRICS}
    write_json(facts, found)
    return found


def training_time(data: gr.Dataset, label: str, steps: int) -> str:
    """How long the published number of epochs would take, from the processor time of some steps."""
    row = GOWALLA[label]
    batch_size, epochs = EPOCHS[label]
    kind = model_class(row.model)
    model = kind.build(data, None, kind.Config(**row.options))
    optimizer = model.optimizer(gr.TrainConfig(batch_size=batch_size))
    batches = model.batches(EpochContext(1, batch_size, 0))
    started = time.process_time()
    for number, batch in enumerate(itertools.islice(batches, steps + 1)):
        if number == 1:  # the first allocates
            started = time.process_time()
        optimizer.zero_grad()
        torch.stack(list(model(batch).values())).sum().backward()
        optimizer.step()
    step = (time.process_time() - started) / steps
    per_epoch = -(-len(data.train) // batch_size)
    hours = step * per_epoch * epochs / 3600
    return (
        f"{label}: {step:.3f} s a step of {batch_size:,}, {per_epoch:,} steps an epoch, {epochs:,} "
        f"epochs: {hours:.0f} hours of processor time"
    )


def table(result: Mapping[str, Any]) -> str:
    """The rows of a split: mean ± standard deviation over seeds, in brackets what was published."""
    data, labels = result["dataset"], result["order"]
    rows = {label: result["rows"][label] for label in labels}
    whole = any("whole" in run for row in rows.values() for run in row["runs"])
    heads = [f"{m[0].upper()}@{m.split('@')[1]}" for m in METRICS]
    columns = [f"{head}, a tenth of train left out" for head in heads] if whole else heads
    columns += [f"{head}, all of train" for head in heads] if whole else []
    columns += ["seeds", "epoch", "seconds"]
    lines = [f"| model | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for label, row in rows.items():
        runs = row["runs"]
        cells = []
        for part in ("test", "whole") if whole else ("test",):
            for metric in METRICS:
                cell = spread([run[part][metric] for run in runs])
                known = row["published"].get(metric)
                # What was published saw all of train.
                cells.append(f"{cell} [{known:.4f}]" if known and (part == "whole" or not whole) else cell)
        epochs = " / ".join(str(run["best_epoch"]) for run in runs)
        seconds = float(np.mean([run["seconds"] for run in runs]))
        lines.append(f"| {label} | {' | '.join(cells)} | {len(runs)} | {epochs} | {seconds:.0f} |")
    about = (
        f"{data['users']:,} users, {data['items']:,} items, {data['train']:,} / {data['valid']:,} / "
        f"{data['test']:,} interactions. `{result['command']}`"
    )
    return f"{about}\n\n" + "\n".join(lines)


def main() -> None:
    """Trains the rows that are named, and records them."""
    parser = options_of_all(__doc__ or "", "1 epoch")
    parser.add_argument("split", choices=list(SPLITS))
    parser.add_argument("--rows", nargs="+", help="the rows to train (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, help="of Gowalla: time this many steps, and train nothing")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    split = SPLITS[options.split]
    parts = {"split": gr.load_dataset(split.reader, root=options.root, **split.options)}
    if split.whole is not None:
        parts["whole"] = gr.load_dataset(split.reader, root=options.root, **split.whole)
    if options.steps:
        keep_freed_memory()  # as the Trainer does
        for label in EPOCHS:
            print(training_time(parts["whole"], label, options.steps), flush=True)
        return
    unknown = [label for label in options.rows or [] if label not in split.rows]
    if unknown:
        parser.error(f"--rows: {', '.join(unknown)}: not of {options.split}; it has {', '.join(split.rows)}")
    name = PREFIX + options.split.replace("-", "_")
    folder = options.out / ("quick" if options.quick else "") / name
    path = (options.out / "quick" if options.quick else RESULTS) / f"{name}.json"
    train = split.train.replace(epochs=QUICK["epochs"]) if options.quick else split.train
    for label in options.rows or split.rows:
        row = split.rows[label]
        runs = [
            one(parts, row, train, seed, folder / folder_of(label) / f"seed-{seed}") for seed in options.seeds
        ]
        before = read_result(path) if path.exists() else {"rows": {}}
        rows = before["rows"] | {
            label: {
                "model": row.model, "options": dict(row.options), "published": dict(row.published),
                "runs": runs,
            }
        }  # fmt: skip
        result = {
            "experiment": name,
            "command": f"{COMMAND} {options.split}" + (" --quick" if options.quick else ""),
            "dataset": parts["split"].summary(),
            "environment": environment(),
            "order": [known for known in split.rows if known in rows],
            "rows": rows,
        }
        write_result(path, result)
        print(f"{label}: {[round(run['test'][METRICS[1]], 4) for run in runs]}", flush=True)
    print(f"\n{table(read_result(path))}\n\nwritten: {path}")


if __name__ == "__main__":
    main()
