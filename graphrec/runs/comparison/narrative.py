"""A comparison in sentences: the answer first, then what the numbers mean."""

from __future__ import annotations

from collections.abc import Sequence

from graphrec.evaluation.metrics import direction
from graphrec.evaluation.report import Comparison
from graphrec.runs.comparison.results import ALPHA, SEEDS, TEST, ModelComparison, mean_and_sd

NAMED = 5
"""Most leaders that the answer names."""


def answer(comparison: ModelComparison) -> str:
    """Which model is best and by how much, or which ones lead without a significant difference."""
    metric = comparison.metric
    results = comparison.results
    best, *others = comparison.ranking
    reached = (
        f"{mean_and_sd(results[best].mean(metric), results[best].sd(metric))} {_seeds(comparison, best)}"
    )
    if not others:
        return f"{best} reaches {metric} {reached}. There is nothing to compare it with."
    second = others[0]
    lead = direction(metric) * (results[best].mean(metric) - results[second].mean(metric))
    leaders = comparison.leaders
    tests = {c.model: c for c in comparison.against_best}
    gain = "" if lead <= 1e-12 else f", {_gain(comparison, best, second)} {second}"
    if len(leaders) == 1:
        parts = [f"{best} is best on {metric}: {reached}{gain} ({_p(tests[second], comparison.n_tests)})."]
    else:
        closest = min((tests[label] for label in leaders[1:]), key=lambda test: test.p_holm or 0.0)
        at_least = "p = " if len(leaders) == 2 else "every p at least "
        parts = [f"No significant difference on {metric} between {_listed(leaders)}"]
        parts.append(f" ({_p(closest, comparison.n_tests, at_least)}).")
        if gain:
            extreme = "highest" if direction(metric) > 0 else "lowest"
            parts.append(f" The {extreme} mean is {best}’s: {reached}{gain}; that lead may be chance.")
        else:
            parts.append(f" {best} and {second} are equal: {reached}.")
        behind = [label for label in others if label not in leaders]
        if behind:
            parts.append(f" Significantly behind {best}: {_listed(behind)}.")
    parts.append(_against_baseline(comparison, best))
    spreads = [sd for label in (best, second) if (sd := results[label].sd(metric)) is not None]
    if spreads and 1e-12 < lead < max(spreads):
        parts.append(
            f" The lead over {second} ({lead:.4f}) is smaller than the spread over training seeds "
            f"({max(spreads):.4f})."
        )
    return "".join(parts)


def _against_baseline(comparison: ModelComparison, best: str) -> str:
    """How the best model compares with the baseline that was named; empty if it is that one."""
    baseline = comparison.baseline
    tested = comparison.comparison(best)
    if tested is None:
        return ""
    gain = f" {best} is {_gain(comparison, best, baseline)} the baseline, {baseline}"
    gain += f" ({_p(tested, comparison.n_tests)})"
    significant = tested.p_holm is not None and tested.p_holm < ALPHA
    return f"{gain}." if significant else f"{gain}; that gain may be chance."


def notes(comparison: ModelComparison) -> list[str]:
    """What ±, intervals and tests mean here, and what to be careful with; a sentence or two each."""
    comparison = comparison.best_first()
    results = comparison.results
    sentences = [f"{line}." for line in comparison.first.report.meta.get("common", ())]
    sentences.append("Best in bold, second best marked too; a mark is not a test.")
    if any(len(r.entries) > 1 for r in results.values()):
        sentences.append(
            "± is the standard deviation over training seeds (n - 1): how much a result moves when the same "
            "model is trained again."
        )
    sentences.append(
        "Intervals are 95% bootstrap intervals over users, of each user's mean over seeds: how much a result "
        "would move with other users. They do not hold the spread over seeds."
    )
    sentences += _about_tests(comparison) + _about_seeds(comparison)
    unplaced = [label for label, r in results.items() if r.cold_items == "as trained"]
    if unplaced and any("items/cold" in r.report.groups for r in results.values()):
        sentences.append(
            f"No way to place items without train interactions: {', '.join(unplaced)}. Their scores of cold "
            "items are what initialization and training left behind."
        )
    return sentences


def _about_tests(comparison: ModelComparison) -> list[str]:
    n = len(comparison.comparisons)
    if not n:
        return []
    best = comparison.ranking[0]
    more = f" and {n - 1} of the others with {best}" if comparison.n_tests > n else ""
    correction = f", corrected by Holm for {n} comparisons with {comparison.baseline}{more}" if n > 1 else ""
    caution = "."
    if comparison.default_baseline and n > 1:
        caution = (
            ", which is the best model on the same numbers (no baseline was named): read a p near "
            f"{ALPHA:g} with care."
        )
    sentences = [f"Tests: {TEST}, paired over users on their means over seeds{correction}{caution}"]
    if more:
        sentences.append(
            "A model is called best where it differs significantly from every other one in these tests."
        )
    return sentences


def _about_seeds(comparison: ModelComparison) -> list[str]:
    counts = {label: len(r.entries) for label, r in comparison.results.items()}
    several = ", ".join(f"{label} ({n})" for label, n in counts.items() if 1 < n < SEEDS)
    single = ", ".join(label for label, n in counts.items() if n == 1)
    parts = [f"{several}; a spread over so few is rough"] if several else []
    parts += [f"a single seed, so no spread is known: {single}"] if single else []
    return [f"Fewer than {SEEDS} seeds: {'; '.join(parts)}."] if parts else []


def _seeds(comparison: ModelComparison, label: str) -> str:
    n = len(comparison.results[label].entries)
    return "with a single seed" if n == 1 else f"over {n} seeds"


def _gain(comparison: ModelComparison, label: str, other: str) -> str:
    mean, base = (comparison.results[x].mean(comparison.metric) for x in (label, other))
    preposition = "over" if direction(comparison.metric) > 0 else "against"
    return f"{mean / base - 1:+.1%} {preposition}" if base > 0 else f"{mean - base:+.4f} {preposition}"


def _p(test: Comparison, n: int, equals: str = "p = ") -> str:
    """The corrected p-value of one of ``n`` tests, and the number of users."""
    correction = " after Holm’s correction" if n > 1 else ""
    return f"{equals}{test.p_holm:.2g}{correction}, {test.n_users:,} users"


def _listed(labels: Sequence[str]) -> str:
    """``a, b and c``; of more than :data:`NAMED` the first ones and the number of the others."""
    named = list(labels[:NAMED])
    if len(labels) > NAMED:
        named.append(f"{len(labels) - NAMED} more")
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
