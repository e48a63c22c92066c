"""Shared by the experiments on conversations: policies in the same conversations, seeds, recorded results.

Rules have their numbers chosen on validation conversations. A learned policy is trained once per seed on
conversations about validation pairs, its epoch chosen on a fifth of them that is kept back; then every policy
experiment about every test pair, once. Trainings are resumable: a finished one is read back.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import graphrec as gr
from experiments.harness import complete, folder_of, options_of_all
from experiments.recording import RESULTS, write_result
from graphrec import runs
from graphrec.conversation.baselines import (
    FIXED_RULES,
    TUNED_POSTERIOR_RULES,
    TUNED_RULES,
    baselines,
    mean_interval,
    tune_rules,
    with_posterior,
)
from graphrec.conversation.belief import Setting
from graphrec.conversation.catalog import Catalog
from graphrec.conversation.config import ConversationConfig
from graphrec.conversation.models.scpr import SCPR
from graphrec.conversation.outcomes import Outcomes
from graphrec.conversation.play import DialogueTask, play
from graphrec.conversation.rules import Policy, parse_rule
from graphrec.conversation.simulator import Simulator
from graphrec.conversation.vectors import read_vectors
from graphrec.core.environment import environment
from graphrec.core.errors import ConfigError
from graphrec.core.files import read_json, write_text

IMAGES = Path(__file__).parent.parent / "docs" / "images"
ERROR_RATES = (0.0, 0.05, 0.1, 0.2, 0.3)
"""Shares of wrong answers that policies are tried with."""
EXPECTED_ERROR = 0.1  # share of wrong answers that the posterior expects
NOISE_CONVERSATIONS = 2000  # for each share
QUICK = {"epochs": 1, "episodes": 100, "pairs": 200}
FM = {"reg_weight": 2e-3, "attribute_learning_rate": 5e-3}  # the authors' rates need hundreds of epochs
POSTERIOR = "posterior, "
EXPECTING_ERRORS = "{}, expecting errors"


@dataclass(frozen=True)
class Learned:
    """A policy to train: its name in the table, options of SCPR and of training."""

    label: str
    options: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ConversationExperiment:
    """One table of conversations.

    Attributes:
        name: also of the file under ``results/``.
        command: the command that makes it.
        data: a dataset with attributes.
        scorer: vectors of users, items and attributes: a file or a run.
        vectors: their name in the table.
        learned: policies to train.
        seeds: one training each.
        published: label -> metric -> published value, shown beside.
        rules: of the conversations, where they are not SCPR's.
        picture: draw success against the share of wrong answers.
    """

    name: str
    command: str
    data: gr.Dataset
    scorer: Path
    vectors: str
    learned: Sequence[Learned]
    seeds: Sequence[int]
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    rules: Mapping[str, Any] = field(default_factory=dict)
    picture: bool = False


def arguments(description: str) -> argparse.ArgumentParser:
    """The options every experiment on conversations has."""
    parser = options_of_all(description, "1 epoch, 1 seed, few pairs")
    parser.add_argument("--rows", nargs="+", help="train these policies only, and record nothing")
    parser.add_argument("--seeds", type=int, nargs="+", help="with --rows: seeds to train")
    return parser


def scorer(data: gr.Dataset, out: Path, quick: bool) -> Path:
    """An FM trained on a dataset, read back if it is there."""
    path = out / ("quick" if quick else "") / f"{data.name}-fm"
    options = {"learning_rate": 0.1, "epochs": QUICK["epochs"] if quick else 30, "checkpoint_every": 5}
    runs.train("fm", data, model_options=FM, train_options=options, out=path, resume=True)
    return path


def run(experiment: ConversationExperiment, options: argparse.Namespace) -> dict[str, Any]:
    """Trains, plays conversations and writes ``results/<name>.json``; with ``--rows`` it only trains.

    Args:
        experiment: what to run.
        options: parsed :func:`arguments`.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    seeds = list(experiment.seeds)[: 1 if options.quick else None]
    folder = options.out / ("quick" if options.quick else "") / experiment.name
    if options.rows:
        for learned in experiment.learned:
            for seed in seeds if learned.label in options.rows else ():
                if options.seeds and seed not in options.seeds:
                    continue
                _, facts = _trained(experiment, learned, seed, folder, options.quick)
                print(f"{learned.label}: {facts}", flush=True)
        return {}
    task, test = _prepared(experiment, options.quick)
    setting, held = task.setting, task.split
    policies: dict[str, list[tuple[Policy, Setting]]] = {k: [v] for k, v in baselines(task).items()}
    trained: dict[str, list[dict[str, Any]]] = {}
    for learned in experiment.learned:
        done = [_trained(experiment, learned, seed, folder, options.quick) for seed in seeds]
        policies[learned.label] = [(model, model.setting) for model, _ in done]
        trained[learned.label] = [facts for _, facts in done]
    simulator = _simulator(setting)
    rows = {}
    for label, several in policies.items():
        found = [play(policy, own, simulator, test.users, test.items) for policy, own in several]
        rows[label] = {
            "published": dict(experiment.published.get(label.partition(":")[0], {})),
            "runs": [_facts(outcomes) for outcomes in found],
            "interval": mean_interval(np.mean([outcomes.success() for outcomes in found], axis=0)),
            "training": trained.get(label, []),
        }
        print(f"{label}: {[round(r['mean']['sr@15'], 4) for r in rows[label]['runs']]}", flush=True)
    result = {
        "experiment": experiment.name,
        "command": experiment.command + (" --quick" if options.quick else ""),
        "dataset": experiment.data.summary(),
        "read": {key: experiment.data.meta.get(key) for key in ("reader", "options")},
        "attributes": setting.catalog.n_attributes,
        "vectors": experiment.vectors,
        "rules": dict(experiment.rules),
        "learned": {
            x.label: {
                "options": dict(x.options),
                "train": complete(gr.TrainConfig(**{**SCPR.train_defaults, **x.train})),
            }
            for x in experiment.learned
        },
        "pairs": len(test),
        "held": len(held),
        "seeds": seeds,
        "order": list(rows),
        "rows": rows,
        "noise": [
            {"policy": k, "sr@15": v} for k, v in _success_by_error_rate(policies, simulator, test).items()
        ],
        "environment": environment(),
    }
    path = (options.out / "quick" if options.quick else RESULTS) / f"{experiment.name}.json"
    write_result(path, result)
    result = read_json(path)
    written = [path]
    if experiment.picture:
        written.append((path.parent if options.quick else IMAGES) / f"{experiment.name}.svg")
        write_text(written[-1], plot(result))
    print(f"{table(result)}\n\n{noise(result)}\n\nwritten: {', '.join(map(str, written))}")
    return result


def repeat(experiment: ConversationExperiment, label: str, seed: int, folder: Path) -> dict[str, float]:
    """One row again: a policy trained under a seed, or a rule whose number is chosen again.

    Args:
        experiment: the table.
        label: of the row; of a rule, the number behind the colon is not used.
        seed: of the training; rules have none.
        folder: where trainings are kept.

    Returns:
        The means over all test conversations.

    Raises:
        ConfigError: no such row.
    """
    task, test = _prepared(experiment, quick=False)
    policy: Policy
    learned = next((x for x in experiment.learned if x.label == label), None)
    if learned is not None:
        policy, _ = _trained(experiment, learned, seed, folder, quick=False)
        own = policy.setting
    else:
        policy, own = _rule(task, label)
    return play(policy, own, _simulator(task.setting), test.users, test.items).mean()


def _rule(task: DialogueTask, label: str) -> tuple[Policy, Setting]:
    """A rule of the table with its number chosen on validation, and its setting."""
    posterior = label.startswith(POSTERIOR)
    name = label.removeprefix(POSTERIOR).partition(":")[0]
    if name in FIXED_RULES:
        return parse_rule(name), task.setting
    numbers = (TUNED_POSTERIOR_RULES if posterior else TUNED_RULES).get(name)
    if numbers is None:
        raise ConfigError(f"{label!r} is neither a learned policy of the experiment nor a rule")
    setting = with_posterior(task.setting, task.setting.config.error) if posterior else task.setting
    return parse_rule(*tune_rules(replace(task, setting=setting), {name: numbers})), setting


def _prepared(experiment: ConversationExperiment, quick: bool) -> tuple[DialogueTask, gr.Interactions]:
    """The conversations about validation pairs, and the test pairs."""
    setting = Setting(
        Catalog.from_dataset(experiment.data),
        read_vectors(experiment.scorer, experiment.data),
        ConversationConfig(**experiment.rules),
    )
    test = experiment.data.test.where(setting.catalog.has_attributes[experiment.data.test.items])
    if quick:
        test = test.where(np.arange(len(test)) % (len(test) // QUICK["pairs"]) == 0)
    held = SCPR.build(experiment.data, None, SCPR.Config(scorer=experiment.scorer)).holdout
    judge = Simulator(setting.catalog, setting.enumerated, seed=1)
    return DialogueTask(setting, held, judge, QUICK["pairs"] if quick else None), test


def _simulator(setting: Setting) -> Simulator:
    return Simulator(setting.catalog, setting.enumerated, seed=2)


def _trained(
    experiment: ConversationExperiment, learned: Learned, seed: int, folder: Path, quick: bool
) -> tuple[Any, dict[str, Any]]:
    """A policy of one seed with the facts of its training."""
    model_options = {"scorer": str(experiment.scorer), **experiment.rules, **learned.options}
    train_options = {"checkpoint_every": 5, **learned.train}
    if quick:
        model_options["episodes"], train_options["epochs"] = QUICK["episodes"], QUICK["epochs"]
    run = runs.train(
        "scpr", experiment.data, model_options=model_options, train_options=train_options,
        out=folder / folder_of(learned.label) / f"seed-{seed}", seed=seed, resume=True,
    )  # fmt: skip
    facts = {
        "seed": seed,
        "best_epoch": run.best_epoch,
        "epochs": len(run.history),
        "seconds": run.seconds,
        "valid": run.best_value,
    }
    return run.model, facts


def _facts(outcomes: Outcomes) -> dict[str, Any]:
    return {"mean": outcomes.mean(), "interval": mean_interval(outcomes.success())}


def _success_by_error_rate(
    policies: Mapping[str, Sequence[tuple[Policy, Setting]]], simulator: Simulator, test: gr.Interactions
) -> dict[str, list[float]]:
    """Success by turn 15 of some policies at each share of wrong answers, in the same conversations."""
    shown = {label: several[0] for label, several in policies.items() if label.partition(":")[0] not in
             ("random", "abs-greedy", "max-entropy", "recommend-when-few")}  # fmt: skip
    for label, (policy, own) in list(shown.items()):
        if own.config.belief == "posterior" and not own.config.error:
            shown[EXPECTING_ERRORS.format(label)] = policy, with_posterior(own, EXPECTED_ERROR)
    users, targets = (
        test.users[:: -(-len(test) // NOISE_CONVERSATIONS)],
        test.items[:: -(-len(test) // NOISE_CONVERSATIONS)],
    )
    return {
        label: [
            float(play(policy, own, replace(simulator, error_rate=rate), users, targets).success().mean())
            for rate in ERROR_RATES
        ]
        for label, (policy, own) in shown.items()
    }


# -- tables --------------------------------------------------------------------------------------------------


def about(result: Mapping[str, Any]) -> str:
    """A paragraph about the data, the vectors and the seeds."""
    data, seeds = result["dataset"], result["seeds"]
    spread = f"mean ± standard deviation over {len(seeds)} seeds" if len(seeds) > 1 else "one seed"
    rules = "".join(f"; {key} {value}" for key, value in result["rules"].items())
    return (
        f"{data['users']:,} users, {data['items']:,} items, {result['attributes']:,} attributes{rules}; "
        f"vectors: "
        f"{result['vectors']}; conversations about {result['pairs']:,} test pairs; rules and epochs chosen "
        f"on {result['held']:,} validation pairs; learned policies: {spread}. "
        f"`{result['command']}`"
    )


COLUMNS = {
    "SR@5": "sr@5", "SR@10": "sr@10", "SR@15": "sr@15", "AT": "at", "AT, opening counted": "at/opening",
    "hDCG": "hdcg", "hDCG, opening counted": "hdcg/opening",
}  # fmt: skip


def table(result: Mapping[str, Any]) -> str:
    """All policies, with published values in brackets.

    The 95 % interval of SR@15 is over conversations: of each one's mean over seeds where that is recorded,
    else of the first seed, and says so.
    """
    lines = [f"| policy | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for label in result["order"]:
        row, cells = result["rows"][label], []
        for metric in COLUMNS.values():
            values = [run["mean"][metric] for run in row["runs"]]
            digits = 2 if metric.startswith("at") else 3
            cell = f"{np.mean(values):.{digits}f}"
            if len(values) > 1:
                cell += f" ± {np.std(values, ddof=1):.{digits}f}"
            if metric == "sr@15":
                low, high = row.get("interval") or row["runs"][0]["interval"]
                first = "first seed " if len(values) > 1 and "interval" not in row else ""
                cell += f" ({first}{low:.3f} to {high:.3f})"
            known = row["published"].get(metric)
            cells.append(cell + (f" [{known:.{digits}f}]" if known else ""))
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def noise(result: Mapping[str, Any]) -> str:
    """SR@15 at each share of wrong answers, of learned policies with their first seed."""
    heads = [f"{wrong:.0%} wrong" for wrong in ERROR_RATES]
    lines = [f"| policy (learned: one seed) | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for row in result["noise"]:
        lines.append(f"| {row['policy']} | {' | '.join(f'{v:.3f}' for v in row['sr@15'])} |")
    return "\n".join(lines)


COLORS = ("#4269d0", "#efb118", "#ff725c", "#3ca951", "#a463f2", "#6cc5b0", "#9c6b4e", "#97bbf5")
WIDTH, HEIGHT, LEFT, TOP = 420, 260, 50, 30


def plot(result: Mapping[str, Any]) -> str:
    """SR@15 over the share of wrong answers, one line a policy, as SVG."""
    rows = result["noise"]

    def place(wrong: float, rate: float) -> str:
        return f"{LEFT + WIDTH * wrong / ERROR_RATES[-1]:.1f},{TOP + HEIGHT * (1 - rate):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + 400} {HEIGHT + 80}" role="img" '
        'aria-label="Success within 15 turns against the share of wrong answers" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="{TOP - 12}" font-weight="bold">success within 15 turns, '
        f"{result['dataset']['name']}</text>",
        f'<text x="{LEFT + WIDTH / 2}" y="{TOP + HEIGHT + 38}" text-anchor="middle">answers that are '
        "wrong</text>",
    ]
    for tenth in range(0, 11, 2):
        y = TOP + HEIGHT * (1 - tenth / 10)
        parts.append(f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{tenth / 10:.1f}</text>')
    for wrong in ERROR_RATES:
        x = LEFT + WIDTH * wrong / ERROR_RATES[-1]
        parts.append(f'<text x="{x}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{wrong:.0%}</text>')
    for number, row in enumerate(rows):
        color, values = COLORS[number % len(COLORS)], zip(ERROR_RATES, row["sr@15"], strict=True)
        points = " ".join(place(wrong, rate) for wrong, rate in values)
        y = TOP + 20 + 22 * number
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts.append(f'<rect x="{LEFT + WIDTH + 20}" y="{y - 8}" width="14" height="4" fill="{color}"/>')
        parts.append(f'<text x="{LEFT + WIDTH + 40}" y="{y}">{row["policy"]}</text>')
    return "\n".join([*parts, "</svg>", ""])
