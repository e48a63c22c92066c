"""Policies side by side: rules chosen on validation, then every policy on the same conversations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from graphrec.conversation.belief import Setting
from graphrec.conversation.outcomes import Outcomes
from graphrec.conversation.play import DialogueTask
from graphrec.conversation.rules import Policy, rule
from graphrec.evaluation.metrics import bootstrap_means

FIXED = ("random", "abs-greedy", "max-entropy")
"""Rules without a number."""
CHOSEN = {
    "ask-then-recommend": (2, 4, 6, 8, 10),
    "recommend-when-few": (25, 50, 100, 200, 400),
    "recommend-when-few-or-late": (25, 50, 100, 200, 400),
}
"""Rules whose number is chosen on validation, and the numbers tried."""
SURE = {"recommend-when-sure": (10, 20, 30, 50)}
"""Likewise, for the belief ``posterior``."""


def choose(task: DialogueTask, tried: Mapping[str, tuple[int, ...]], select: str = "sr@15") -> list[str]:
    """Each rule with the number that does best.

    Args:
        task: conversations about validation pairs.
        tried: numbers by rule.
        select: what is to be highest; of equals, the one with fewer turns.
    """
    best = []
    for name, numbers in tried.items():
        found = {n: task(rule(f"{name}:{n}")) for n in numbers}
        best.append(f"{name}:{max(numbers, key=lambda n: (found[n][select], -found[n]['at']))}")
    return best


def with_posterior(setting: Setting, error: float = 0.0) -> Setting:
    """The same setting with every answer counting; see :mod:`graphrec.conversation.posterior`."""
    config = setting.config.replace(belief="posterior", error=error)
    return Setting(setting.catalog, setting.vectors, config, setting.prior)


def baselines(task: DialogueTask) -> dict[str, tuple[Policy, Setting]]:
    """The rules that every learned policy has to be compared with, and the setting each has.

    Args:
        task: conversations about validation pairs, to choose the rules' numbers on.
    """
    plain = task.setting
    names = [*FIXED, *choose(task, CHOSEN)]
    found: dict[str, tuple[Policy, Setting]] = {name: (rule(name), plain) for name in names}
    posterior = with_posterior(plain, plain.config.error)
    for name in choose(replace(task, setting=posterior), SURE):
        found[f"posterior, {name}"] = (rule(name), posterior)
    return found


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Bootstrap interval of a mean over conversations.

    Args:
        values: one a conversation ``(n,)``.
        level: of confidence.
    """
    means = bootstrap_means(values.astype(np.float64))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def line(outcomes: Outcomes) -> list[str]:
    """Cells of a table: success by turn 5, 10 and 15 (the last with its interval), average turn and
    discounted gain, the opening not counted and counted.
    """
    mean = outcomes.mean()
    low, high = interval(outcomes.found > 0)
    return [
        f"{mean['sr@5']:.3f}", f"{mean['sr@10']:.3f}", f"{mean['sr@15']:.3f} [{low:.3f}, {high:.3f}]",
        f"{mean['at']:.2f}", f"{mean['at/opening']:.2f}", f"{mean['hdcg']:.3f}",
        f"{mean['hdcg/opening']:.3f}",
    ]  # fmt: skip


HEADER = ["policy", "SR@5", "SR@10", "SR@15", "AT", "AT (opening)", "hDCG", "hDCG (opening)"]
"""Titles of the cells of :func:`line`, with the policy's name before them."""
