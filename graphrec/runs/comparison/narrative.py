"""A comparison in sentences: the answer first, then what the numbers mean."""

from __future__ import annotations

from graphrec.evaluation.metrics import direction
from graphrec.runs.comparison.results import ALPHA, SEEDS, TEST, ModelComparison, mean_and_sd


def answer(comparison: ModelComparison) -> str:
    """Which model is best, by how much, and whether users or seeds could account for it."""
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
    if lead <= 1e-12:
        return f"{best} and {second} are equal on {metric}: {reached}."
    gain = _gain(comparison, best, second)
    parts = [f"{best} is best on {metric}: {reached}, {gain} the second best, {second}"]
    baseline = comparison.baseline
    if baseline == best:
        parts.append(f" ({_p(comparison, second)}).")
        parts.append(_verdict(comparison, second, f"The lead over {second}"))
    elif baseline == second:
        parts.append(f", which is the baseline ({_p(comparison, best)}).")
        parts.append(_verdict(comparison, best, "The lead"))
    else:
        gain = _gain(comparison, best, baseline)
        parts.append(f", and {gain} the baseline, {baseline} ({_p(comparison, best)}).")
        parts.append(_verdict(comparison, best, "The gain over the baseline"))
        parts.append(" The lead over the second best was not tested.")
    spreads = [sd for label in (best, second) if (sd := results[label].sd(metric)) is not None]
    if spreads and lead < max(spreads):
        parts.append(
            f" The lead over {second} ({lead:.4f}) is smaller than the spread over training seeds "
            f"({max(spreads):.4f})."
        )
    return "".join(parts)


def notes(comparison: ModelComparison) -> list[str]:
    """What ±, intervals and tests mean here, and what to be careful with; a sentence or two each."""
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
    correction = f", corrected by Holm for {n} comparisons with {comparison.baseline}" if n > 1 else ""
    caution = "."
    if comparison.default_baseline and n > 1:
        caution = (
            ", which is the best model on the same numbers (no baseline was named): read a p near "
            f"{ALPHA:g} with care."
        )
    return [f"Tests: {TEST}, paired over users on their means over seeds{correction}{caution}"]


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


def _p(comparison: ModelComparison, label: str) -> str:
    tested = comparison.comparison(label)
    assert tested is not None
    correction = " after Holm’s correction" if len(comparison.comparisons) > 1 else ""
    return f"p = {tested.p_holm:.2g}{correction}, {tested.n_users:,} users"


def _verdict(comparison: ModelComparison, label: str, lead: str) -> str:
    tested = comparison.comparison(label)
    if tested is None or tested.p_holm is None or tested.p_holm < ALPHA:
        return ""
    return f" {lead} may be chance: other users could have reversed it."
