"""The rules that every learned policy is compared with, and the rows of such a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from graphrec.conversation.belief import Setting
from graphrec.conversation.outcomes import Outcomes
from graphrec.conversation.play import DialogueTask
from graphrec.conversation.rules import Policy, parse_rule
from graphrec.evaluation.metrics import bootstrap_means

FIXED_RULES = ("random", "abs-greedy", "max-entropy")
"""Rules without a number."""
TUNED_RULES = {
    "ask-then-recommend": (2, 4, 6, 8, 10),
    "recommend-when-few": (25, 50, 100, 200, 400),
    "recommend-when-few-or-late": (25, 50, 100, 200, 400),
}
"""Rules whose number is chosen on validation, and the numbers tried."""
TUNED_POSTERIOR_RULES = {"recommend-when-sure": (10, 20, 30, 50)}
"""The same for the belief ``posterior``."""


def tune_rules(
    task: DialogueTask, numbers_by_rule: Mapping[str, tuple[int, ...]], select: str = "sr@15"
) -> list[str]:
    """Each rule with its best number.

    Args:
        task: conversations about validation pairs.
        numbers_by_rule: the numbers to try.
        select: the metric to maximize; of equals, the number with fewer turns wins.
    """
    best = []
    for name, numbers in numbers_by_rule.items():
        metrics = {n: task(parse_rule(f"{name}:{n}")) for n in numbers}
        best.append(f"{name}:{max(numbers, key=lambda n: (metrics[n][select], -metrics[n]['at']))}")
    return best


def with_posterior(setting: Setting, error: float = 0.0) -> Setting:
    """The setting with the belief ``posterior``; see :mod:`graphrec.conversation.posterior`."""
    return replace(setting, config=setting.config.replace(belief="posterior", error=error))


def baselines(task: DialogueTask) -> dict[str, tuple[Policy, Setting]]:
    """The rules that every learned policy has to be compared with, each with its setting.

    Args:
        task: conversations about validation pairs, on which the rules' numbers are chosen.
    """
    policies: dict[str, tuple[Policy, Setting]] = {
        name: (parse_rule(name), task.setting) for name in (*FIXED_RULES, *tune_rules(task, TUNED_RULES))
    }
    posterior = with_posterior(task.setting, task.setting.config.error)
    for name in tune_rules(replace(task, setting=posterior), TUNED_POSTERIOR_RULES):
        policies[f"posterior, {name}"] = (parse_rule(name), posterior)
    return policies


def mean_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Bootstrap confidence interval of a mean over conversations.

    Args:
        values: one value per conversation ``(n,)``.
        level: confidence level.
    """
    means = bootstrap_means(values.astype(np.float64))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def table_row(outcomes: Outcomes) -> list[str]:
    """Cells of a table: success by turn 5, 10 and 15 (the last with its interval), average turn and
    discounted gain, both without and with the opening.
    """
    mean = outcomes.mean()
    low, high = mean_interval(outcomes.success())
    return [
        f"{mean['sr@5']:.3f}",
        f"{mean['sr@10']:.3f}",
        f"{mean['sr@15']:.3f} [{low:.3f}, {high:.3f}]",
        f"{mean['at']:.2f}",
        f"{mean['at/opening']:.2f}",
        f"{mean['hdcg']:.3f}",
        f"{mean['hdcg/opening']:.3f}",
    ]


TABLE_HEADER = ["policy", "SR@5", "SR@10", "SR@15", "AT", "AT (opening)", "hDCG", "hDCG (opening)"]
"""Titles of the policy's name and the cells of :func:`table_row`."""
