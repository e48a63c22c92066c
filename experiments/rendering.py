"""Recorded results as Markdown tables.

A line that compares two rows shows both over one set of seeds, those that both have, and says how many.
p-values are recorded as tested and corrected here, over all comparisons that are recorded for a dataset, with
the baseline and with checks: a comparison has the same corrected p in every table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from graphrec.evaluation.metrics import holm

R20 = "recall@20"
HEADS = {"recall@10": "R@10", "recall@20": "R@20", "ndcg@10": "N@10", "ndcg@20": "N@20"}
TITLES = {"amazon_scientific": "Amazon Scientific", "movielens_small": "MovieLens small"}
"""Recorded result -> the name of its dataset, where a table has more than one."""
GROUPS = {"items/warm": "warm R@20", "items/cold": "cold R@20", "items/cold/within": "cold among cold R@20"}


def table(result: Mapping[str, Any]) -> str:
    """The main rows: mean ± standard deviation over seeds, best bold, second best in italics, published
    values in brackets; of a cold-item split, columns for warm and cold items.
    """
    rows = {label: result["rows"][label] for label in result["order"]}
    rows = {label: row for label, row in rows.items() if row["group"] == "main"}
    columns = [[values_of(row, "test", m) for row in rows.values()] for m in HEADS]
    heads = list(HEADS.values())
    if (result["split"] or {}).get("name") == "cold-items":
        heads = ["R@20", "N@20", *GROUPS.values(), "places new items"]
        columns = [columns[1], columns[3]]
        columns += [[values_of(row, "groups", g, "recall@20") for row in rows.values()] for g in GROUPS]
    cells = [_marked(column) for column in columns]
    lines = [f"| model | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for number, (label, row) in enumerate(rows.items()):
        own = [column[number] for column in cells]
        if "places new items" in heads:
            own.append("yes" if row["supports_cold_items"] else "no")
        else:
            known = [row["published"].get(m) for m in HEADS]
            own = [c + (f" [{k:.4f}]" if k else "") for c, k in zip(own, known, strict=True)]
        lines.append(f"| {label} | {' | '.join(own)} |")
    return "\n".join(lines)


def best(results: Mapping[str, Mapping[str, Any]], count: int = 5) -> str:
    """The models with the highest recall@20, averaged over some datasets, with recall and NDCG on each."""
    labels = [
        label
        for label in next(iter(results.values()))["order"]
        if all(label in r["rows"] and r["rows"][label]["group"] == "main" for r in results.values())
    ]

    def mean(label: str) -> float:
        return float(np.mean([values_of(r["rows"][label], "test", "recall@20") for r in results.values()]))

    labels = sorted(labels, key=mean, reverse=True)[:count]
    columns = [
        [values_of(result["rows"][label], "test", metric) for label in labels]
        for result in results.values()
        for metric in ("recall@20", "ndcg@20")
    ]
    cells = [_marked(column) for column in columns]
    heads = [f"{TITLES.get(name, name)}, {m}" for name in results for m in ("R@20", "N@20")]
    lines = [f"| model | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    lines += [
        f"| {label} | {' | '.join(column[number] for column in cells)} |"
        for number, label in enumerate(labels)
    ]
    commands = " and ".join(f"`{result['command']}`" for result in results.values())
    seeds = " and ".join(dict.fromkeys(seeds_in_words(len(r["seeds"])) for r in results.values()))
    lines += ["", f"Mean ± standard deviation over {seeds}; best bold, second best italic. "
              f"Recorded by {commands}."]  # fmt: skip
    return "\n".join(lines)


def about(result: Mapping[str, Any]) -> str:
    """A paragraph: what was run, on what, with which budget."""
    data, seeds, trials = result["dataset"], result["seeds"], result["trials"]
    spread = f"mean ± standard deviation over {seeds_in_words(len(seeds))}" if len(seeds) > 1 else "one seed"
    minutes = sum(run["seconds"] for row in result["rows"].values() for run in row["runs"]) / 60
    beyond = any("beyond" in trial for row in result["rows"].values() for trial in row["trials"])
    further = " and up to 4 more beyond an edge of its grid" if beyond else ""
    if trials:
        how = f"{trials} trials a model{further}"
    elif any(row["model"] == "content-ease" for row in result["rows"].values()):
        how = "the papers' settings; models in closed form: 8 trials, and up to 4 more beyond an edge"
        if any(label.endswith(", tuned") for label in result["rows"]):
            how += "; tuned rows: 8 trials, and up to 2 more"
    else:
        how = "the papers' settings, nothing tuned"
    if trials and result["tuned_on"] != result["experiment"]:
        how += f", those of {result['tuned_on']}"
    fields: dict[str, list[str]] = {"item": [], "user": []}
    for field, table in result["features"].items():
        name = table["extractor"]["name"]
        fields[table.get("entity", "item")].append(f"{field} of {table['items']:,} ({name})")
    users, items = (
        f" ({', '.join(fields[entity])})" if fields[entity] else "" for entity in ("user", "item")
    )
    return (
        f"{data['users']:,} users{users}, {data['items']:,} items{items}, {data['train']:,} / "
        f"{data['valid']:,} / {data['test']:,} interactions; {how}, selected on validation recall@20; "
        f"{spread}; train items masked; {minutes:.0f} minutes of training after tuning. `{result['command']}`"
    )


def details(result: Mapping[str, Any]) -> str:
    """Comparisons with the baseline, the other pairs, the rows of checks, and every row's options."""
    rows = {label: result["rows"][label] for label in result["order"]}
    parts = [_comparisons(result), family([result])]
    checks = {label: row for label, row in rows.items() if row["group"] != "main"}
    if checks:
        lines = ["| check | seeds | R@20 | N@20 |", "|---|---|---|---|"]
        for label, row in checks.items():
            values = [spread(values_of(row, "test", m)) for m in (R20, "ndcg@20")]
            lines.append(f"| {label} | {_count(seeds_of(row))} | {' | '.join(values)} |")
        parts.append("\n".join(lines))
    if result["pairs"]:
        parts.append(pair_table([result], lambda *_: True))
    lines = [
        "| model | options | best epoch | seconds an epoch | seconds to 99 % of the best validation |",
        "|---|---|---|---|---|",
    ]
    for label, row in rows.items():
        options = ", ".join(f"{k} {v}" for k, v in row["options"].items()) or "defaults"
        epochs = " / ".join(str(r["best_epoch"]) for r in row["runs"])
        pace = float(np.mean([r["seconds"] / max(1, r["epochs"]) for r in row["runs"]]))
        to_99 = [r["seconds_to_99"] for r in row["runs"] if r.get("seconds_to_99") is not None]
        reached = f"{np.median(to_99):.0f}" if to_99 else "-"
        lines.append(f"| {label} | {options} | {epochs} | {pace:.2f} | {reached} |")
    return "\n\n".join([*parts, "\n".join(lines)])


Chosen = Callable[[Mapping[str, Any], Mapping[str, Any]], bool]
"""Whether a table shows a recorded pair of a result."""


def rival_table(results: Sequence[Mapping[str, Any]], metric: str) -> str:
    """ContentEASE, with eight trials and tuned in turn, beside other models in one metric."""
    heads = ["dataset", "model", "rival", "metric", "model", "rival", "seeds", "relative", "95 % interval",
             "p (Holm)"]  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for result in results:
        corrected = corrected_p(result)
        for pair in result.get("rivals", []):
            if pair["metric"] != metric:
                continue
            seeds = shared_seeds(result, pair)
            means = [
                f"{np.mean(values_of(result['rows'][pair[side]], 'test', pair['metric'], seeds=seeds)):.5f}"
                for side in ("model", "baseline")
            ]
            low, high = pair["interval"]
            cells = [
                result["experiment"], pair["model"], pair["baseline"], HEADS[pair["metric"]], *means,
                _count(seeds), relative(pair["relative"]), f"[{low:+.4f}, {high:+.4f}]",
                f"{corrected[key_of(pair)]:.2g}",
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", family(results)])


def pair_table(results: Sequence[Mapping[str, Any]], chosen: Chosen) -> str:
    """Rows beside their checks; every column of a line is over the seeds that both have.

    Args:
        results: recorded; with more than one, the first column names the dataset.
        chosen: which of their pairs to show.
    """
    heads = ["model", "R@20", "check", "R@20", "seeds", "difference", "relative", "95 % interval", "p (Holm)"]
    heads = heads if len(results) == 1 else ["dataset", *heads]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for result in results:
        corrected = corrected_p(result)
        for pair in result["pairs"]:
            if not chosen(result, pair):
                continue
            seeds = shared_seeds(result, pair)
            cells = [] if len(results) == 1 else [result["experiment"]]
            for label in (pair["model"], pair["baseline"]):
                values = values_of(result["rows"][label], "test", pair["metric"], seeds=seeds)
                cells += [label, spread(values, PAIR_DIGITS)]
            low, high = pair["interval"]
            cells += [
                _count(seeds), f"{pair['difference']:+.4f}", relative(pair["relative"]),
                f"[{low:+.4f}, {high:+.4f}]", f"{corrected[key_of(pair)]:.2g}",
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) if len(results) == 1 else "\n".join([*lines, "", family(results)])


def corrected_p(result: Mapping[str, Any]) -> dict[tuple[str, str, str], float]:
    """Holm's correction over all comparisons of a recorded result: :func:`key_of` -> corrected p."""
    family = compared(result)
    p_values = holm([c["p"] for c in family])
    return {key_of(c): float(p) for c, p in zip(family, p_values, strict=True)}


def compared(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """All comparisons of a recorded result: with the baseline, its pairs, and with rivals."""
    return [*result["comparisons"], *result["pairs"], *result.get("rivals", [])]


def key_of(comparison: Mapping[str, Any]) -> tuple[str, str, str]:
    """The model, what it is compared with, and in which metric."""
    return comparison["model"], comparison["baseline"], comparison["metric"]


def family(results: Sequence[Mapping[str, Any]]) -> str:
    """A sentence that names the comparisons over which p-values are corrected."""
    counts = []
    for result in results:
        main, pairs = len(result["comparisons"]), len(result["pairs"])
        rivals = len(result.get("rivals", []))
        parts = [f"{main} with {result['baseline']}"]
        parts += [f"{pairs} with checks"] if pairs else []
        parts += [f"{rivals} of ContentEASE with others"] if rivals else []
        of = f"{result['experiment']}: " if len(results) > 1 else ""
        counts.append(of + " and ".join(parts))
    which = "of a dataset" if len(results) > 1 else "of this dataset"
    return f"p (Holm) is corrected over all comparisons {which} ({'; '.join(counts)})."


def seeds_of(row: Mapping[str, Any]) -> list[int]:
    """The seeds of a recorded row."""
    return [run["seed"] for run in row["runs"]]


def shared_seeds(result: Mapping[str, Any], pair: Mapping[str, Any]) -> list[int]:
    """The seeds that both rows of a comparison have."""
    ours, theirs = (seeds_of(result["rows"][pair[side]]) for side in ("model", "baseline"))
    return [seed for seed in ours if seed in theirs]


def seeds_in_words(count: int) -> str:
    """``one seed`` or ``3 seeds``."""
    return "one seed" if count == 1 else f"{count} seeds"


def _count(seeds: Sequence[int]) -> str:
    return "one seed" if len(seeds) == 1 else str(len(seeds))


def relative(value: float) -> str:
    """A relative difference; of more than a doubling, how many times as much it is."""
    return f"{value:+.1%}" if value < 1 else f"{value + 1:.1f} times"


PAIR_DIGITS = 5
"""Digits of means beside a relative difference, so that it can be computed from them as printed."""


def spread(values: Sequence[float], digits: int = 4) -> str:
    """Mean ± standard deviation over seeds; a single value without."""
    text = f"{np.mean(values):.{digits}f}"
    return text + (f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else "")


def _comparisons(result: Mapping[str, Any]) -> str:
    corrected = corrected_p(result)
    seeds = {len(shared_seeds(result, c)) for c in result["comparisons"]}
    over = " or ".join(seeds_in_words(n) for n in sorted(seeds))
    lines = [
        f"| recall@20, {over} | difference | relative | 95 % interval | p (Holm) |",
        "|---|---|---|---|---|",
    ]
    for c in result["comparisons"]:
        low, high = c["interval"]
        lines.append(
            f"| {c['model']} vs {c['baseline']} | {c['difference']:+.4f} | {relative(c['relative'])} "
            f"| [{low:+.4f}, {high:+.4f}] | {corrected[key_of(c)]:.2g} |"
        )
    return "\n".join(lines)


def values_of(row: Mapping[str, Any], *keys: str, seeds: Collection[int] | None = None) -> list[float]:
    """One value a seed, of all seeds or of some."""
    found = []
    for run in row["runs"]:
        if seeds is not None and run["seed"] not in seeds:
            continue
        value: Any = run
        for key in keys:
            value = value[key]
        found.append(float(value))
    return found


def _marked(column: Sequence[Sequence[float]]) -> list[str]:
    """Cells of one column: best bold, second italic, by the mean as printed."""
    means = [round(float(np.mean(values)), 4) for values in column]
    cells = []
    for values, mean in zip(column, means, strict=True):
        better = len({m for m in means if m > mean})
        text = spread(values)
        cells.append(f"**{text}**" if better == 0 else f"*{text}*" if better == 1 else text)
    return cells
