"""The report of a comparison: one page for somebody who knows neither the program nor the models."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from graphrec.evaluation.metrics import parse_metric
from graphrec.runs.comparison.results import ModelComparison
from graphrec.runs.comparison.sections import cell, curves, cuts, machines, recommended, times, warm_cold
from graphrec.runs.html import Html, Section, element, facts, join, page, paragraph, table

MEANINGS = {
    "recall": "the share of a user's held-out items that stand among the first k of the list",
    "ndcg": "the same with more credit for standing nearer to the top",
    "precision": "the share of the first k places that hold a held-out item",
    "map": "precision at each found item, averaged: finding early counts more",
    "map_all": "the same, divided by all held-out items",
    "mrr": "1 / the place of the first held-out item",
    "hit": "whether there is a held-out item among the first k at all",
}


def page_of(made: ModelComparison, title: str | None = None, command: str | None = None) -> str:
    """The whole page.

    Args:
        made: what to show.
        title: headline; default: from the number of models and the dataset.
        command: shown as the way to make the page again.
    """
    about = _about(made)
    name = (about.get("dataset") or {}).get("name")
    n = len(made.results)
    models = f"{n} models" if n > 1 else "One model"
    makers: dict[str, tuple[Callable[[ModelComparison], Html | None], str]] = {
        "Results": (_results, "Every number is a mean over users, then over training seeds."),
        "Who is better, and how sure it is": (_comparisons, f"Tested on {made.metric}."),
        "Metric against k": (cuts, "How the picture changes with the length of the list."),
        "Warm and cold items": (
            warm_cold,
            "Warm items have interactions in the training data. Cold items have none, as new arrivals do: "
            "only what they are, such as their picture and text, can say who may want them.",
        ),
        "Training curves": (curves, "Validated while training; the best epoch is the one kept."),
        "Accuracy against training time": (times, "Further up is better, further left is quicker."),
        "What is recommended": (
            recommended,
            "Accuracy is not all: a model may reach it by offering everybody the same well-known items.",
        ),
    }
    sections = [Section("The answer", _answer(made))]
    for heading, (maker, below) in makers.items():
        body = maker(made)
        if body is not None:
            sections.append(Section(heading, body, below))
    sections.append(Section("How to read this", _how_to_read(made)))
    sections.append(Section("How it was run", _how_it_was_run(made, command)))
    return page(
        title or (f"{models} on {name}" if name else f"{models} compared"),
        sections,
        pill="comparison",
        lead="Which recommender finds what users went on to choose, by how much it is ahead, and how sure "
        "that is. The page needs no network and holds everything it shows.",
        footer="Written by graphrec compare.",
    )


def _about(made: ModelComparison) -> Mapping[str, Any]:
    return next(iter(made.results.values())).entries[0].about


def _answer(made: ModelComparison) -> Html:
    report = next(iter(made.results.values())).report
    meta = report.meta
    counts = {
        "models": f"{len(made.results)}",
        "trainings": f"{sum(len(r.entries) for r in made.results.values())}",
        "users measured": f"{len(report):,}",
    }
    told = {"n_items": "items to choose from", "n_held_out": "interactions held out"}
    counts |= {what: f"{meta[key]:,}" for key, what in told.items() if key in meta}
    base, cut = parse_metric(made.metric)
    return join(
        (
            paragraph(element("b", made.answer)),
            paragraph(
                "Some interactions of each user were set aside before training. Every model then ranked all "
                f"items for every user, and {made.metric} is {MEANINGS[base]}, with k = {cut}, averaged over "
                "users. Higher is better, 1 is the most there could be."
            ),
            facts(counts),
        )
    )


def _results(made: ModelComparison) -> Html:
    rows = [
        [label, len(result.entries), *(cell(made, result, name) for name in made.names)]
        for label, result in made.results.items()
    ]
    caption = (
        "Mean ± standard deviation over training seeds; below, the 95 % bootstrap interval over users. "
        "Best in bold, second best underlined."
    )
    return table(["model", "seeds", *made.names], rows, caption=caption)


def _comparisons(made: ModelComparison) -> Html | None:
    if not made.comparisons:
        return None
    rows = []
    for c in made.comparisons:
        ahead, pairs = made.ahead(c.model)
        relative = f"{c.relative:+.1%}" if math.isfinite(c.relative) else "-"
        rows.append(
            (
                f"{c.model} against {c.baseline}", f"{c.difference:+.4f}", relative,
                f"{c.interval[0]:+.4f} to {c.interval[1]:+.4f}", f"{c.p:.2g}",
                "-" if c.p_holm is None else f"{c.p_holm:.2g}", f"{ahead} of {pairs}",
            )
        )  # fmt: skip
    caption = (
        f"Differences in {made.metric}, paired over the same {made.comparisons[0].n_users:,} users. p: how "
        "often chance alone would make a difference this large; Holm's correction allows for the number of "
        "comparisons. Seed pairs: in how many pairs of one training of each the first model is ahead."
    )
    header = ["comparison", "difference", "relative", "95 % interval", "p", "p (Holm)", "seed pairs ahead"]
    return table(header, rows, caption=caption)


def _how_to_read(made: ModelComparison) -> Html:
    bases = dict.fromkeys(parse_metric(name)[0] for name in made.names)
    meanings = (element("li", element("b", f"{base}@k"), f": {MEANINGS[base]}.") for base in bases)
    return join((element("ul", *meanings), element("ul", *(element("li", note) for note in made.notes))))


def _how_it_was_run(made: ModelComparison, command: str | None) -> Html:
    about, meta = _about(made), next(iter(made.results.values())).report.meta
    data, environment = about.get("dataset") or {}, about.get("environment") or {}
    training = [dict(r.entries[0].about.get("train_config") or {}) for r in made.results.values()]
    shared = {
        k: v for k, v in training[0].items() if all(k in t and t[k] == v for t in training) and k != "seed"
    }
    split, fingerprint = about.get("split"), str(data.get("fingerprint", ""))
    masked = f"what users have in {meta['seen']} is not ranked" if meta.get("seen") else "nothing is masked"
    rows: list[tuple[object, object]] = [
        ("dataset", data.get("name", "not recorded")),
        ("split", _options(split) if isinstance(split, Mapping) else split),
        ("measured on", f"{meta.get('split', 'not recorded')}; {masked}"),
        ("dataset fingerprint", element("code", fingerprint[:16]) if fingerprint else None),
        ("selected on", about.get("select")),
        ("training, all models", _options(shared)),
    ]  # fmt: skip
    for (label, result), options in zip(made.results.items(), training, strict=True):
        told = dict(result.entries[0].about.get("model_config") or {})
        told |= {f"train.{k}": v for k, v in options.items() if k not in shared}
        extractors = result.entries[0].about.get("extractors") or {}
        told |= {f"{f} features": _named(e) for f, e in extractors.items()}
        seeds = ", ".join(str(s) for s in result.seeds if s is not None) or "not recorded"
        parts = [f"seeds {seeds}", _options({k: v for k, v in told.items() if not k.endswith("seed")})]
        rows.append((label, "; ".join(part for part in parts if part)))
    if environment:
        versions = {"Python": environment.get("python"), **(environment.get("packages") or {})}
        rows.append(("software", _options(versions)))
    if trained_on := machines(made):
        rows.append(("machine", "; ".join(trained_on)))
    body = table(
        ["setting", "value"],
        [row for row in rows if row[1]],
        caption="What was trained and measured",
        left=True,
    )
    if command is None:
        return body
    again = (paragraph("This page is made again by:"), element("pre", element("code", command)))
    return join((*again, body))


def _named(extractor: Any) -> str:
    return str(extractor.get("name", "unknown")) if isinstance(extractor, Mapping) else str(extractor)


def _options(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in values.items() if v is not None)
