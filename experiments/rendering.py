"""Recorded results as Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

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
    seeds = len(next(iter(results.values()))["seeds"])
    lines += ["", f"Mean ± standard deviation over {seeds} training seeds; best bold, second best italic. "
              f"Recorded by {commands}."]  # fmt: skip
    return "\n".join(lines)


def about(result: Mapping[str, Any]) -> str:
    """A paragraph: what was run, on what, with which budget."""
    data, seeds, trials = result["dataset"], result["seeds"], result["trials"]
    spread = f"mean ± standard deviation over {len(seeds)} seeds" if len(seeds) > 1 else "one seed"
    minutes = sum(run["seconds"] for row in result["rows"].values() for run in row["runs"]) / 60
    how = f"{trials} trials a model" if trials else "the papers' settings, nothing tuned"
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
    parts = [_comparisons(result["comparisons"])]
    checks = {label: row for label, row in rows.items() if row["group"] != "main"}
    if checks:
        lines = ["| check | R@20 | N@20 |", "|---|---|---|"]
        for label, row in checks.items():
            values = [spread(values_of(row, "test", m)) for m in ("recall@20", "ndcg@20")]
            lines.append(f"| {label} | {' | '.join(values)} |")
        parts.append("\n".join(lines))
    if result["pairs"]:
        parts.append(_comparisons(result["pairs"]))
    lines = ["| model | options | best epoch | seconds an epoch |", "|---|---|---|---|"]
    for label, row in rows.items():
        options = ", ".join(f"{k} {v}" for k, v in row["options"].items()) or "defaults"
        epochs = " / ".join(str(r["best_epoch"]) for r in row["runs"])
        pace = float(np.mean([r["seconds"] / max(1, r["epochs"]) for r in row["runs"]]))
        lines.append(f"| {label} | {options} | {epochs} | {pace:.2f} |")
    return "\n\n".join([*parts, "\n".join(lines)])


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation over seeds; a single value without."""
    return f"{np.mean(values):.4f}" + (f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else "")


def _comparisons(found: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| recall@20, per-user means over seeds | difference | relative | 95 % interval | p (Holm) |",
        "|---|---|---|---|---|",
    ]
    for c in found:
        low, high = c["interval"]
        lines.append(
            f"| {c['model']} vs {c['baseline']} | {c['difference']:+.4f} | {c['relative']:+.1%} "
            f"| [{low:+.4f}, {high:+.4f}] | {c['p_holm']:.2g} |"
        )
    return "\n".join(lines)


def values_of(row: Mapping[str, Any], *keys: str) -> list[float]:
    """One value a seed."""
    found = []
    for run in row["runs"]:
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
