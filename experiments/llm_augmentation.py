"""LLMRec, and other models with its augmentation, with attributes, profiles and preferences that no language
model wrote, and with controls.

Attributes are the dataset's own, profiles are counted in train, preferences are the first and the last of
ItemKNN's best ten; a language model has to beat them. The controls replace the profiles (FREEDOM's: the
attributes): *noise* by random vectors, *shuffled* by those of other people (other items).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import graphrec as gr
from experiments.harness import SELECT, Experiment, Row
from experiments.rendering import (
    GROUPS,
    PAIR_DIGITS,
    corrected_p,
    family,
    key_of,
    relative,
    seeds_in_words,
    seeds_of,
    spread,
    values_of,
)
from graphrec.evaluation.ranking import ranked
from graphrec.features import ATTRIBUTE_PREFIX, PREFERENCES, PROFILE, FeatureStore, FeatureTable
from graphrec.features.extract import extractor
from graphrec.features.extract.llm import catalog, jobs
from graphrec.features.extract.llm.tables import write_attributes, write_profiles
from graphrec.models.itemknn import ItemKNN
from graphrec.models.llmrec import LLMRec

ALL_ON = ", everything on"
BASES = ("LightGCN", "VBPR", "BM3", "FREEDOM")
PREFERRED, DESCRIBED = {"augmented": 0.1}, {"attributes": True}  # the share is that of LLMRec
NAMES = {"augmented": "preferences", "attributes": "attributes"}
CANDIDATES = 10
PRUNED = 0.71  # the authors' rate


def augmentation(data: gr.Dataset, store: Path) -> dict[str, FeatureTable]:
    """Attributes, profiles and preferences of a dataset that was read with attributes: tables by field."""
    kept = FeatureStore(store)
    tables = dict(write_attributes(data, catalog.attributes(data), extractor("tfidf-svd"), kept))
    tables[PROFILE] = write_profiles(data, catalog.profiles(data), extractor("tfidf-svd"), kept)
    pool = ranked(ItemKNN.build(data), CANDIDATES, data.train)
    questions = jobs.preference_questions(data, jobs.item_titles(data), pool, "item")
    answers = [None] * len(questions)
    tables[PREFERENCES] = jobs.preference_table(data, pool, questions, answers, "llm/catalog/itemknn")
    return tables


def rows_of(
    main: Sequence[Row], train: gr.TrainConfig, fields: Sequence[str], on: Mapping[str, Any] | None
) -> list[Row]:
    """The rows: models without augmentation, LLMRec, its controls and parts, and models with augmentation.

    Args:
        main: the rows of the dataset's table.
        train: options of training.
        fields: all fields of features.
        on: options of the row that controls and parts belong to, if tuning switched parts off.
    """
    written = [f for f in fields if f.startswith(ATTRIBUTE_PREFIX)]
    content = [f for f in fields if f not in (PROFILE, PREFERENCES, *written)]

    def fields_with(*parts: str) -> tuple[str, ...]:
        return (*content, *parts)

    whole = Row("LLMRec", "llmrec", LLMRec.Config(), train)
    part = replace(whole, like="LLMRec", change=dict(on or {}), group="augmentation")

    def variant(suffix: str, change: Mapping[str, Any] | None = None, **more: Any) -> Row:
        return replace(part, label=f"LLMRec{suffix}", change={**part.change, **(change or {})}, **more)

    return [
        *bases_of(main),
        whole,
        *([variant(ALL_ON)] if on else []),
        variant(", noise profiles", control={PROFILE: "noise"}),
        variant(", shuffled profiles", control={PROFILE: "shuffled"}),
        variant(" without profiles", features=fields_with(PREFERENCES, *written)),
        variant(" without attributes", features=fields_with(PREFERENCES, PROFILE)),
        variant(" without preferences", {"augmented": 0.0}),
        variant(f", pruned by {PRUNED}", {"prune": PRUNED}),  # tuning prunes nothing on either dataset
        variant(", attributes only", features=fields_with(*written)),
        variant(", nothing said", features=fields_with()),
        *augmented(main),
        *(
            replace(row, label=f"FREEDOM + {how} attributes", control=dict.fromkeys(written, how))
            for row in augmented(main)
            if row.label == "FREEDOM + attributes"
            for how in ("shuffled", "tied", "noise")
        ),
    ]


def bases_of(main: Sequence[Row]) -> list[Row]:
    """The models that LLMRec is compared with."""
    return [row for row in main if row.label in BASES]


def augmented(main: Sequence[Row]) -> list[Row]:
    """Models with augmentation: preferences in their batches and, if they take content, attributes."""
    found = []
    for row in bases_of(main):
        parts: list[dict[str, Any]] = [{**PREFERRED, **(DESCRIBED if row.model != "lightgcn" else {})}]
        if row.model == "freedom":
            parts += [PREFERRED, DESCRIBED]
        for options in parts:
            label = f"{row.label} + {' and '.join(NAMES[option] for option in options)}"
            found.append(replace(row, label=label, like=row.label, change=options, group="augmentation"))
    return found


def pairs_of(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """LLMRec is compared with each control and part, models with augmentation with those without."""
    ours = [row.label for row in rows if row.model == "llmrec"]
    whole = 1 if f"LLMRec{ALL_ON}" in ours else 0  # the row that parts are taken from
    compared = [(ours[whole], label) for label in ours if label != ours[whole]]
    return compared + [(row.label, str(row.like)) for row in rows if row.model != "llmrec" and row.like]


def experiments(
    warm: Experiment,
    cold: Experiment,
    rich: Sequence[gr.Dataset],
    store: Path,
    on: Mapping[str, Any] | None = None,
) -> list[Experiment]:
    """The table with augmentation, and a shorter one with cold items, which LLMRec cannot place.

    Args:
        warm: the dataset's table, whose options and trainings are used.
        cold: the table with cold items.
        rich: the datasets of both, read with attributes.
        store: the feature store.
        on: see :func:`rows_of`.
    """
    tables = [{**warm.features, **augmentation(data, store)} for data in rich]
    rows = rows_of(warm.rows, warm.rows[0].train, list(tables[0]), on)
    first = Experiment(
        f"{warm.name}_augmented", warm.command, warm.data, tables[0], rows, range(3), warm.baseline,
        warm.trials, pairs_of(rows), tuned_as=warm, shares=warm,
    )  # fmt: skip
    rows = [row for row in rows if row.model in ("lightgcn", "freedom") and not row.control]
    second = Experiment(
        f"{cold.name}_augmented", warm.command, cold.data, tables[1], rows, range(3), warm.baseline,
        0, pairs_of(rows), tuned_as=first, shares=cold,
    )  # fmt: skip
    return [first, second]


# -- tables --------------------------------------------------------------------------------------------------

HEADS = ("relative", "95 % interval", "p (Holm)")


def parts(result: Mapping[str, Any]) -> str:
    """LLMRec, its controls, and LLMRec without a part; differences are LLMRec against the row."""
    labels = [label for label in result["order"] if result["rows"][label]["model"] == "llmrec"]
    found = {pair["baseline"]: pair for pair in result["pairs"]}
    return _table(result, labels, found)


def added(result: Mapping[str, Any]) -> str:
    """Models without and with augmentation; differences are the row against the model without."""
    labels = [label for label in result["order"] if result["rows"][label]["model"] != "llmrec"]
    found = {pair["model"]: pair for pair in result["pairs"]}
    return _table(result, sorted(labels, key=lambda label: _place(result, label)), found)


def cold(result: Mapping[str, Any]) -> str:
    """The same with a tenth of the items cold."""
    lines = ["| model | R@20 | warm R@20 | cold R@20 | cold among cold R@20 |", "|---|---|---|---|---|"]
    for label in sorted(result["order"], key=lambda label: _place(result, label)):
        row = result["rows"][label]
        cells = [spread(values_of(row, "test", SELECT))]
        cells += [spread(values_of(row, "groups", group, SELECT)) for group in GROUPS]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _place(result: Mapping[str, Any], label: str) -> int:
    """The position of the model that a row belongs to."""
    return int(result["order"].index(result["rows"][label]["like"] or label))


def _table(result: Mapping[str, Any], labels: Sequence[str], pairs: Mapping[str, Mapping[str, Any]]) -> str:
    """Rows with their means for all users and by activity, and the comparison if there is one.

    Raises:
        ValueError: the rows have different seeds, so that means and comparisons would not belong together.
    """
    corrected = corrected_p(result)
    seeds = seeds_of(result["rows"][labels[0]])
    for label in labels:
        if seeds_of(result["rows"][label]) != seeds:
            raise ValueError(
                f"{result['experiment']}: {label} has seeds {seeds_of(result['rows'][label])}, {labels[0]} "
                f"{seeds}; expected one set of seeds in a table: train the missing ones"
            )
    groups = {name: group["users"] for name, group in result["rows"][labels[0]]["activity"].items()}
    heads = [
        f"model ({seeds_in_words(len(seeds))})", "R@20", "N@20",
        *(f"{name} train items ({n:,} users)" for name, n in groups.items()), *HEADS,
    ]  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for label in labels:
        row = result["rows"][label]
        cells = [spread(values_of(row, "test", SELECT), PAIR_DIGITS)]
        cells.append(spread(values_of(row, "test", "ndcg@20")))
        cells += [f"{np.mean(group[SELECT]):.4f}" for group in row["activity"].values()]
        pair = pairs.get(label)
        if pair is None:
            cells += [""] * len(HEADS)
        else:
            low, high = pair["interval"]
            cells += [relative(pair["relative"]), f"[{low:+.4f}, {high:+.4f}]"]
            cells.append(f"{corrected[key_of(pair)]:.2g}")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", family([result])])
