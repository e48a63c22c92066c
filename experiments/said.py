"""What a language model would be measured against: LLMRec and models with its augmentation, fed by the
catalog, which asks nobody, and by controls that say nothing.

Attributes are the dataset's own, profiles are counted in train, preferences are the first and the last of
ItemKNN's best ten. Both controls keep everything but the profiles (FREEDOM's: the attributes): *noise* are
random vectors, *shuffled* are other people's (other items').
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import graphrec as gr
from experiments.harness import SELECT, Experiment, Row
from experiments.rendering import GROUPS, spread, values_of
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


def said(data: gr.Dataset, store: Path) -> dict[str, FeatureTable]:
    """What the catalog says of a dataset that was read with its attributes: tables by field."""
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
    """The rows: models without any of it, LLMRec, its controls and parts, and models with it.

    Args:
        main: of the dataset's table.
        train: options of training.
        fields: all there are.
        on: options of the row that controls and parts are of, where tuning switched parts off.
    """
    written = [f for f in fields if f.startswith(ATTRIBUTE_PREFIX)]
    content = [f for f in fields if f not in (PROFILE, PREFERENCES, *written)]

    def given(*parts: str) -> tuple[str, ...]:
        return (*content, *parts)

    whole = Row("LLMRec", "llmrec", LLMRec.Config(), train)
    part = replace(whole, like="LLMRec", change=dict(on or {}), group="said")

    def but(what: str, change: Mapping[str, Any] | None = None, **more: Any) -> Row:
        return replace(part, label=f"LLMRec{what}", change={**part.change, **(change or {})}, **more)

    return [
        *bases_of(main),
        whole,
        *([but(ALL_ON)] if on else []),
        but(", noise profiles", control={PROFILE: "noise"}),
        but(", shuffled profiles", control={PROFILE: "shuffled"}),
        but(" without profiles", features=given(PREFERENCES, *written)),
        but(" without attributes", features=given(PREFERENCES, PROFILE)),
        but(" without preferences", {"augmented": 0.0}),
        but(f", pruned by {PRUNED}", {"prune": PRUNED}),  # tuning prunes nothing on either dataset
        but(", attributes only", features=given(*written)),
        but(", nothing said", features=given()),
        *augmented(main),
        *(
            replace(row, label=f"FREEDOM + {how} attributes", control=dict.fromkeys(written, how))
            for row in augmented(main)
            if row.label == "FREEDOM + attributes"
            for how in ("shuffled", "noise")
        ),
    ]


def bases_of(main: Sequence[Row]) -> list[Row]:
    """The models that LLMRec is compared with."""
    return [row for row in main if row.label in BASES]


def augmented(main: Sequence[Row]) -> list[Row]:
    """Models with what was said: preferences in their batches and, where they take content, attributes."""
    found = []
    for row in bases_of(main):
        parts: list[dict[str, Any]] = [{**PREFERRED, **(DESCRIBED if row.model != "lightgcn" else {})}]
        if row.model == "freedom":
            parts += [PREFERRED, DESCRIBED]
        for options in parts:
            label = f"{row.label} + {' and '.join(NAMES[option] for option in options)}"
            found.append(replace(row, label=label, like=row.label, change=options, group="said"))
    return found


def pairs_of(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What is compared: LLMRec with each control and part, models that have it with those that have not."""
    ours = [row.label for row in rows if row.model == "llmrec"]
    own = 1 if f"LLMRec{ALL_ON}" in ours else 0  # where what parts are taken from stands
    compared = [(ours[own], label) for label in ours if label != ours[own]]
    return compared + [(row.label, str(row.like)) for row in rows if row.model != "llmrec" and row.like]


def experiments(
    warm: Experiment,
    cold: Experiment,
    rich: Sequence[gr.Dataset],
    store: Path,
    on: Mapping[str, Any] | None = None,
) -> list[Experiment]:
    """The table with what was said, and a shorter one with cold items, to which LLMRec has nothing to say.

    Args:
        warm: the dataset's table, of which options and trainings are taken over.
        cold: likewise with cold items.
        rich: the datasets of both, read with attributes.
        store: of features.
        on: see :func:`rows_of`.
    """
    tables = [{**warm.features, **said(data, store)} for data in rich]
    rows = rows_of(warm.rows, warm.rows[0].train, list(tables[0]), on)
    first = Experiment(
        f"{warm.name}_said", warm.command, warm.data, tables[0], rows, range(3), warm.baseline,
        warm.trials, pairs_of(rows), tuned_as=warm, shares=warm,
    )  # fmt: skip
    rows = [row for row in rows if row.model in ("lightgcn", "freedom") and not row.control]
    second = Experiment(
        f"{cold.name}_said", warm.command, cold.data, tables[1], rows, range(3), warm.baseline,
        0, pairs_of(rows), tuned_as=first, shares=cold,
    )  # fmt: skip
    return [first, second]


# -- tables --------------------------------------------------------------------------------------------------

HEADS = ("difference", "95 % interval", "p (Holm)")


def parts(result: Mapping[str, Any]) -> str:
    """LLMRec beside its controls and itself short of a part; differences are LLMRec against the row."""
    labels = [label for label in result["order"] if result["rows"][label]["model"] == "llmrec"]
    found = {pair["baseline"]: pair for pair in result["pairs"]}
    return _table(result, labels, found)


def added(result: Mapping[str, Any]) -> str:
    """Models without and with what was said; differences are the row against the model without."""
    labels = [label for label in result["order"] if result["rows"][label]["model"] != "llmrec"]
    found = {pair["model"]: pair for pair in result["pairs"]}
    return _table(result, sorted(labels, key=lambda label: _family(result, label)), found)


def cold(result: Mapping[str, Any]) -> str:
    """The same where a tenth of the items are cold."""
    lines = ["| model | R@20 | warm R@20 | cold R@20 | cold among cold R@20 |", "|---|---|---|---|---|"]
    for label in sorted(result["order"], key=lambda label: _family(result, label)):
        row = result["rows"][label]
        cells = [spread(values_of(row, "test", SELECT))]
        cells += [spread(values_of(row, "groups", group, SELECT)) for group in GROUPS]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _family(result: Mapping[str, Any], label: str) -> int:
    """Where the model that a row is of stands."""
    return int(result["order"].index(result["rows"][label]["like"] or label))


def _table(result: Mapping[str, Any], labels: Sequence[str], pairs: Mapping[str, Mapping[str, Any]]) -> str:
    """Rows with their means for all users and by activity, and a comparison where there is one."""
    groups = {name: group["users"] for name, group in result["rows"][labels[0]]["activity"].items()}
    heads = ["R@20", "N@20", *(f"{name} train items ({n:,} users)" for name, n in groups.items()), *HEADS]
    lines = [f"| model | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for label in labels:
        row = result["rows"][label]
        cells = [spread(values_of(row, "test", metric)) for metric in (SELECT, "ndcg@20")]
        cells += [f"{np.mean(group[SELECT]):.4f}" for group in row["activity"].values()]
        pair = pairs.get(label)
        if pair is None:
            cells += [""] * len(HEADS)
        else:
            low, high = pair["interval"]
            cells += [f"{pair['relative']:+.1%}", f"[{low:+.4f}, {high:+.4f}]", f"{pair['p_holm']:.2g}"]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)
