"""Who will work on which file: CODER beside heuristics and graphs, on git histories.

FS and DB of oss-contrib (histories of 16 and 4 repositories; there are no contents, so the words of the paths
stand in), and whole clones with contents. Candidates are files that the person has not worked on yet, of the
repositories the person has worked in (intra-project).

Six global time cuts: what was known at a time recommends what was done after it
(:mod:`experiments.contribution_cuts`). With ``--per-person``, each person's contributions in the order of
time: the first seven tenths to train on, a tenth to choose the epoch on, the last two to test on, so that
train holds what others did later; also with the files of all other repositories (cross-project) as
candidates. Nothing is tuned there: settings are below.

    python -m experiments.contributions                                # FS and DB, six cuts
    python -m experiments.contributions --clones ../flask ../requests  # the clones alone
    python -m experiments.contributions --per-person                   # each person's last ones, three seeds
    python -m experiments.contributions --quick                        # one epoch, two cuts or one seed
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import graphrec as gr
from experiments import contribution_cuts
from experiments.contribution_cuts import PER_PERSON, CutRow
from experiments.harness import QUICK, folder_of, options_of_all
from experiments.recording import RESULTS, read_result, write_result
from experiments.rendering import spread
from graphrec.core.environment import environment
from graphrec.core.files import read_json, write_json
from graphrec.evaluation.candidates import CandidateGroups
from graphrec.evaluation.metrics import holm
from graphrec.evaluation.ranking import RankingTask
from graphrec.evaluation.report import Report
from graphrec.features import FeatureStore, FeatureTable
from graphrec.features.extract import extractor
from graphrec.features.extract.extraction import extract
from graphrec.models import model as model_class
from graphrec.runs.comparison import Entry, compare_reports

COMMAND = "python -m experiments.contributions"
SELECT = "ndcg@10"
METRICS = ("ndcg", "hit", "mrr")
BASELINES = ("LightGCN", "LightGCN, local negatives", "Co-change")
COLD = 2  # train contributions at most of those who are new
GRAPH = gr.TrainConfig(
    batch_size=1024, epochs=300, patience=60, patience_steps=0, checkpoint_every=20, learning_rate=1e-3
)
# of 1e-3 and 3e-3 the better one in validation on the clones; CODER takes seconds an epoch and peaks early
DEEP = GRAPH.replace(learning_rate=3e-3, epochs=150, patience=25)


@dataclass(frozen=True)
class Row:
    """A model: label, registered name, options, those of training; whether it is CODER short of a part."""

    label: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    train: gr.TrainConfig = GRAPH
    part: bool = False


LOCAL = {"local_negatives": 1.0}
RATES = ({"train.learning_rate": 1e-3}, {"train.learning_rate": 5e-3})
UNTIL_PATIENCE = GRAPH.replace(epochs=2000)
SECOND = {"contributions_cuts_fs": 2}  # of rows that take long: every second cut
FEW = {**SECOND, "contributions_cuts_db": 2}
# What is left when only sessions are kept, which did best in validation on DB and the clones (one seed).
SESSIONS = {**LOCAL, "session": 7.0, "semantics": False, "tree": False, "projects": False, "fusion": "sum",
            "contrast_weight": 0.0, "n_layers": 1, "dim": 256, "reg_weight": 1e-6}  # fmt: skip
ROWS = (
    Row("Popularity", "popularity"),
    Row("Same directory", "directory"),
    Row("ItemKNN", "itemknn"),
    Row("Co-change", "cochange"),
    Row("MF-BPR", "mf"),
    Row("LightGCN", "lightgcn"),
    Row("LightGCN, local negatives", "lightgcn", LOCAL),
    Row("CODER", "coder", {}, DEEP),
    Row("CODER, local negatives", "coder", LOCAL, DEEP),
    Row("CODER, sessions", "coder", SESSIONS, DEEP),
    Row("CODER, sessions and co-change", "coder", {**SESSIONS, "cochange": 100.0}, DEEP),
    Row("without tree", "coder", {**LOCAL, "tree": False}, DEEP, part=True),
    Row("without projects", "coder", {**LOCAL, "projects": False}, DEEP, part=True),
    Row("without contents", "coder", {**LOCAL, "semantics": False}, DEEP, part=True),
    Row("without contrast", "coder", {**LOCAL, "contrast_weight": 0.0}, DEEP, part=True),
    Row("fusion by adding", "coder", {**LOCAL, "fusion": "sum"}, DEEP, part=True),
    Row("people by sessions", "coder", {**LOCAL, "session": 7.0}, DEEP, part=True),
)
AGES = (90.0, 180.0, 365.0, 730.0)
CUT_ROWS = (
    CutRow("Popularity", "popularity"),
    CutRow("Popularity, recent", "popularity", tuple({"half_life": age} for age in AGES)),
    CutRow("Same directory", "directory"),
    CutRow("ItemKNN", "itemknn"),
    CutRow("Co-change", "cochange"),
    CutRow(
        "Co-change and recent popularity",
        "cochange",
        tuple({"popular": weight, "half_life": 365.0} for weight in (1.0, 3.0, 10.0)),
    ),
    CutRow("MF-BPR", "mf", RATES, UNTIL_PATIENCE, SECOND),
    CutRow(
        "LightGCN, local negatives",
        "lightgcn",
        tuple({**LOCAL, **rate} for rate in RATES),
        UNTIL_PATIENCE,
        SECOND,
    ),
    CutRow("CODER, sessions", "coder", (SESSIONS,), DEEP, SECOND),
    CutRow("CODER, local negatives", "coder", (LOCAL,), DEEP, FEW),
    CutRow("CODER, sessions and co-change", "coder", ({**SESSIONS, "cochange": 100.0},), DEEP, FEW),
)


def main() -> None:
    """Runs the experiments."""
    parser = options_of_all(__doc__ or "", "1 epoch, 2 cuts or 1 seed")
    parser.add_argument(
        "--per-person", action="store_true", help="split each person's contributions, not all at one time"
    )
    parser.add_argument("--store", type=Path, default=Path("cache"), help="the feature store")
    parser.add_argument("--clones", nargs="+", type=Path, help="local clones to read instead of FS and DB")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds with --per-person")
    labels = list(dict.fromkeys(row.label for row in (*CUT_ROWS, *ROWS)))
    parser.add_argument(
        "--rows", nargs="+", choices=labels, metavar="ROW", help="train these rows only, and record nothing"
    )
    parser.add_argument(
        "--without", nargs="+", choices=labels, metavar="ROW", default=[], help="leave these rows out"
    )
    parser.add_argument("--topics", nargs="+", default=["FS", "DB"], help="which of FS and DB")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.clones:
        paths = [str(path.absolute()) for path in options.clones]
        load = partial(gr.load_dataset, "git", root=".", repositories=paths)
        names = " ".join(f"../{Path(path).name}" for path in paths)
        measure("clones", f"{COMMAND} --clones {names}", load, "code", options)
        return
    for topic in options.topics:
        load = partial(gr.load_dataset, "oss-contrib", root=options.root, topic=topic)
        measure(f"contributions_{topic.lower()}", f"{COMMAND} --topics {topic}", load, "path", options)


def measure(
    name: str, command: str, load: Callable[..., gr.Dataset], text: str, options: argparse.Namespace
) -> None:
    """Measures a history at the cuts, or per person."""
    if options.per_person:
        run(name, f"{command} --per-person", load(split=PER_PERSON), text, options)
        return
    first, _, rest = name.partition("_")
    cuts = "_".join(filter(None, (first, "cuts", rest)))
    contribution_cuts.run(cuts, command, lambda split: load(split=split), text, CUT_ROWS, options)


def run(name: str, command: str, data: gr.Dataset, text: str, options: argparse.Namespace) -> None:
    """Trains all rows per person, writes ``results/<name>.json`` and prints the tables.

    Args:
        name: of the result.
        command: the command that makes it.
        data: contributions, split per person.
        text: the field that tells what files say.
        options: parsed arguments.
    """
    study = Study(name, data, text, options)
    seeds = options.seeds[: 1 if options.quick else None]
    rows: dict[str, Any] = {}
    entries: dict[str, list[Entry]] = {}
    for row in ROWS:
        if (options.rows and row.label not in options.rows) or row.label in options.without:
            continue
        done = [study.one(row, seed) for seed in seeds]
        entries[row.label] = [Entry(report, facts["seed"]) for facts, report in done]
        rows[row.label] = {"model": row.model, "part": row.part, "options": dict(row.options),
                           "runs": [facts for facts, _ in done]}  # fmt: skip
        print(f"{row.label}: {[round(facts['intra'][SELECT], 4) for facts, _ in done]}", flush=True)
    if options.rows:
        return
    ours = {label: entries[label] for label in entries if label.startswith("CODER")}
    compared = []
    for baseline in BASELINES:
        found = compare_reports(
            {baseline: entries[baseline], **ours},
            baseline=baseline,
            metric=SELECT,
            k=(5, 10),
            metrics=METRICS,
        )
        compared += [{k: v for k, v in vars(c).items() if k != "p_holm"} for c in found.comparisons]
    result = {
        "experiment": name,
        "command": command
        + (f" --without {shlex.join(options.without)}" if options.without else "")
        + (" --quick" if options.quick else ""),
        "dataset": data.summary(),
        "repositories": data.meta.get("repositories", {}),
        "text": text,
        "seeds": seeds,
        "cold": int((data.train.user_degree[np.unique(data.test.users)] <= COLD).sum()),
        "environment": environment(),
        "order": list(rows),
        "rows": rows,
        "contributions": compared,
    }
    path = (options.out / "quick" if options.quick else RESULTS) / f"{name}.json"
    write_result(path, result)
    result = read_result(path)
    print(
        f"{about(result)}\n\n{table(result)}\n\n{parts(result)}\n\n{compared_with(result)}\n\nwritten: {path}"
    )


class Study:
    """What the trainings on one dataset have in common."""

    def __init__(self, name: str, data: gr.Dataset, text: str, options: argparse.Namespace) -> None:
        self.data, self.options, self.text = data, options, text
        self.folder = options.out / ("quick" if options.quick else "") / name
        self._table: FeatureTable | None = None

    def table(self) -> FeatureTable:
        """What files say."""
        if self._table is None:
            made = extractor("code-segments", min_texts=1)
            self._table = extract(self.data, self.text, made, FeatureStore(self.options.store))
        return self._table

    def one(self, row: Row, seed: int) -> tuple[dict[str, Any], Report]:
        """One training with its reports, read back if it is finished."""
        out = self.folder / folder_of(row.label) / f"seed-{seed}"
        if (out / "facts.json").exists():
            return read_json(out / "facts.json"), Report.from_parquet(out / "report.parquet")
        data, cls = self.data, model_class(row.model)
        config = cls.Config(**{**row.options, "seed": seed})
        features = {self.text: self.table()} if cls.needs_features(config) else None
        model = cls.build(data, features, config)
        train = row.train.replace(seed=seed, **({"epochs": QUICK["epochs"]} if self.options.quick else {}))
        own = CandidateGroups.from_repositories(data)
        task = RankingTask(data.valid, seen=data.train, k=(10,), metrics=("ndcg",), candidate_groups=own)
        done = gr.Trainer(train, out=out).fit(model, task, SELECT, resume=True)
        both = data.train + data.valid
        new = {"new": data.train.user_degree <= COLD}
        intra = gr.evaluate(done.model, data.test, seen=both, k=(3, 5, 10, 20), metrics=METRICS,
                            candidate_groups=own, user_groups=new, name=row.label)  # fmt: skip
        outside = CandidateGroups.from_repositories(data, inside=False)
        facts = {
            "seed": seed, "best_epoch": done.best_epoch, "epochs": len(done.history), "seconds": done.seconds,
            "parameters": sum(p.numel() for p in done.model.parameters()),
            "valid": done.best_value, "intra": intra.mean(), "new": intra.groups["users/new"].mean(),
        }  # fmt: skip
        if outside.contains(data.test.users, data.test.items).any():
            cross = gr.evaluate(done.model, data.test, seen=both, k=(5, 20, 100), metrics=METRICS,
                                candidate_groups=outside, name=row.label)  # fmt: skip
            facts |= {"cross": cross.mean(), "crossing": len(cross)}
        intra.to_parquet(out / "report.parquet")
        write_json(out / "facts.json", facts)
        return read_json(out / "facts.json"), intra


# -- tables --------------------------------------------------------------------------------------------------


def about(result: Mapping[str, Any]) -> str:
    """A paragraph: what was run, on what."""
    data = result["dataset"]
    seeds = result["seeds"]
    over = f"mean ± standard deviation over {len(seeds)} seeds" if len(seeds) > 1 else "one seed"
    text = "contents" if result["text"] == "code" else "words of the paths (there are no contents)"
    return (
        f"Per person (others' later commits are in train): {data['users']:,} people, "
        f"{data['items']:,} files, {data['train']:,} / {data['valid']:,} / {data['test']:,} contributions; "
        f"text: {text}; {result['cold']:,} people of the test have at most {COLD} train contributions; "
        f"{over}. `{result['command']}`"
    )


def _cells(row: Mapping[str, Any], view: str, metrics: Sequence[str]) -> list[str]:
    return [spread([run[view][m] for run in row["runs"]]) if view in row["runs"][0] else "" for m in metrics]


def table(result: Mapping[str, Any]) -> str:
    """The models: intra-project, for those who are new, and cross-project."""
    views = {"intra": ("ndcg@5", "ndcg@10", "hit@10", "mrr@10", "ndcg@20"), "new": ("ndcg@3", "ndcg@5"),
             "cross": ("ndcg@20", "hit@100")}  # fmt: skip
    heads = ["N@5", "N@10", "Hit@10", "MRR@10", "N@20", "new: N@3", "new: N@5", "cross: N@20",
             "cross: Hit@100"]  # fmt: skip
    lines = [f"| model | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for label in result["order"]:
        row = result["rows"][label]
        if not row["part"]:
            cells = [cell for view, metrics in views.items() for cell in _cells(row, view, metrics)]
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def parts(result: Mapping[str, Any]) -> str:
    """CODER short of its parts."""
    lines = ["| CODER, local negatives | N@10 | Hit@10 |", "|---|---|---|"]
    for label in result["order"]:
        row = result["rows"][label]
        if row["part"] or label == "CODER, local negatives":
            cells = _cells(row, "intra", ("ndcg@10", "hit@10"))
            lines.append(f"| {label if row['part'] else 'whole'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def compared_with(result: Mapping[str, Any]) -> str:
    """Paired comparisons on NDCG@10; p-values are corrected over all of them."""
    p_values = holm([c["p"] for c in result["contributions"]])
    lines = ["| NDCG@10, per-person means over seeds | difference | relative | 95 % interval | p (Holm) |",
             "|---|---|---|---|---|"]  # fmt: skip
    for c, p in zip(result["contributions"], p_values, strict=True):
        low, high = c["interval"]
        lines.append(f"| {c['model']} vs {c['baseline']} | {c['difference']:+.4f} | {c['relative']:+.1%} "
                     f"| [{low:+.4f}, {high:+.4f}] | {p:.2g} |")  # fmt: skip
    lines += ["", f"p (Holm) is corrected over the {len(p_values)} comparisons of this table."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
