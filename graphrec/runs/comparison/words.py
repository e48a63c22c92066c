"""What a comparison says in sentences: the answer first, then what the numbers mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphrec.runs.comparison.results import ALPHA, SEEDS, TEST, spread

if TYPE_CHECKING:
    from graphrec.runs.comparison.results import ModelComparison


def answer(made: ModelComparison) -> str:
    """Which model is best, by how much, and whether users or seeds could account for it."""
    metric, results = made.metric, made.results
    best, *others = made.ranking
    reached = f"{spread(results[best].mean(metric), results[best].sd(metric))} {_seeds(made, best)}"
    if not others:
        return f"{best} reaches {metric} {reached}. There is nothing to compare it with."
    second = others[0]
    lead = results[best].mean(metric) - results[second].mean(metric)
    if lead <= 1e-12:
        return f"{best} and {second} are equal on {metric}: {reached}."
    parts = [f"{best} is best on {metric}: {reached}, {_gain(made, best, second)} the second best, {second}"]
    if made.baseline == best:
        parts.append(f" ({_p(made, second)}).")
        parts.append(_verdict(made, second, f"The lead over {second}"))
    elif made.baseline == second:
        parts.append(f", which is the baseline ({_p(made, best)}).")
        parts.append(_verdict(made, best, "The lead"))
    else:
        base = made.baseline
        parts.append(f", and {_gain(made, best, base)} the baseline, {base} ({_p(made, best)}).")
        parts.append(_verdict(made, best, "The gain over the baseline"))
        parts.append(" The lead over the second best was not tested.")
    spreads = [s for label in (best, second) if (s := results[label].sd(metric)) is not None]
    if spreads and lead < max(spreads):
        parts.append(
            f" The lead over {second} ({lead:.4f}) is smaller than the spread over training seeds "
            f"({max(spreads):.4f})."
        )
    return "".join(parts)


def notes(made: ModelComparison) -> list[str]:
    """What ±, intervals and tests mean here, and what to be careful with."""
    n = len(made.comparisons)
    single = all(len(r.entries) == 1 for r in made.results.values())
    said = [
        "Best in bold, second best marked too; a mark is not a test.",
        ""
        if single
        else "± is the standard deviation over training seeds (n - 1): how much a result moves "
        "when the same model is trained again.",
        "Intervals are 95% bootstrap intervals over users, of each user's mean over seeds: how much a result "
        "would move with other users. They do not hold the spread over seeds.",
    ]
    if n:
        said.append(
            f"Tests: {TEST}, paired over users on their means over seeds"
            + (f", corrected by Holm for {n} comparisons with {made.baseline}" if n > 1 else "")
            + (
                ", which is the best model on the same numbers (no baseline was named): read a p near "
                f"{ALPHA:g} with care."
                if made.chosen and n > 1
                else "."
            )
        )
    few = {label: len(r.entries) for label, r in made.results.items() if len(r.entries) < SEEDS}
    if few:
        several = ", ".join(f"{label} ({count})" for label, count in few.items() if count > 1)
        ones = ", ".join(label for label, count in few.items() if count == 1)
        said.append(
            f"Fewer than {SEEDS} seeds"
            + (f": {several}; a spread over so few is rough" if several else "")
            + ("; a" if several and ones else ": a" if ones else "")
            + (f" single seed, so no spread is known: {ones}" if ones else "")
            + "."
        )
    unplaced = [label for label, r in made.results.items() if r.cold_items == "as trained"]
    if unplaced and any("items/cold" in r.report.groups for r in made.results.values()):
        said.append(
            f"No way to place items without train interactions: {', '.join(unplaced)}. Their scores of cold "
            "items are what initialization and training left behind."
        )
    return [text for text in said if text]


def _seeds(made: ModelComparison, label: str) -> str:
    n = len(made.results[label].entries)
    return "with a single seed" if n == 1 else f"over {n} seeds"


def _gain(made: ModelComparison, label: str, other: str) -> str:
    own, base = (made.results[x].mean(made.metric) for x in (label, other))
    return f"{own / base - 1:+.1%} over" if base > 0 else f"{own - base:+.4f} over"


def _p(made: ModelComparison, label: str) -> str:
    found = made.comparison(label)
    assert found is not None
    assert found.p_holm is not None
    many = len(made.comparisons) > 1
    return f"p = {found.p_holm:.2g}{' after Holm’s correction' if many else ''}, {found.n_users:,} users"


def _verdict(made: ModelComparison, label: str, what: str) -> str:
    found = made.comparison(label)
    if found is None or found.p_holm is None or found.p_holm < ALPHA:
        return ""
    return f" {what} may be chance: other users could have turned it round."
