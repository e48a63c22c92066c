"""The rows of the tables: every model with its settings, and the checks of the multimodal models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import graphrec as gr
from experiments.harness import Row
from graphrec.models import model
from graphrec.models.base import ModelConfig

NAMES = {
    "Popularity": "popularity",
    "ItemKNN": "itemknn",
    "UserKNN": "userknn",
    "RP3beta": "rp3beta",
    "SLIM": "slim",
    "EASE": "ease",
    "GF-CF": "gf-cf",
    "BSPM": "bspm",
    "iALS": "ials",
    "ItemKNN (content)": "itemknn-content",
    "ContentEASE": "content-ease",
    "MF-BPR": "mf",
    "UltraGCN": "ultragcn",
    "LightGCN": "lightgcn",
    "LayerGCN": "layergcn",
    "SGL": "sgl",
    "SimGCL": "simgcl",
    "XSimGCL": "xsimgcl",
    "LightGCL": "lightgcl",
    "NCL": "ncl",
    "HCCF": "hccf",
    "DCCF": "dccf",
    "AutoCF": "autocf",
    "GFormer": "gformer",
    "DirectAU": "directau",
    "SelfCF": "selfcf",
    "Zero-shot": "zero-shot",
    "AlphaRec": "alpharec",
    "RLMRec-Con": "rlmrec-con",
    "RLMRec-Gen": "rlmrec-gen",
    "VBPR": "vbpr",
    "MMGCN": "mmgcn",
    "GRCN": "grcn",
    "SLMRec": "slmrec",
    "LATTICE": "lattice",
    "BM3": "bm3",
    "FREEDOM": "freedom",
    "PGL": "pgl",
    "MGCN": "mgcn",
    "SMORE": "smore",
    "DualGNN": "dualgnn",
    "DRAGON": "dragon",
    "COHESION": "cohesion",
    "MENTOR": "mentor",
    "LGMRec": "lgmrec",
    "MICRO": "micro",
    "DA-MRS": "damrs",
    "DiffMM": "diffmm",
    "MMSSL": "mmssl",
}
"""Label -> registered name, in the order of the tables."""
MULTIMODAL = (
    "ItemKNN (content)", "ContentEASE", "Zero-shot", "AlphaRec", "RLMRec-Con", "RLMRec-Gen", "VBPR",
    "LATTICE", "BM3", "FREEDOM", "PGL", "MGCN", "SMORE", "DualGNN", "DRAGON", "COHESION", "MENTOR",
    "MMGCN", "GRCN", "SLMRec", "LGMRec", "MICRO", "DA-MRS", "DiffMM", "MMSSL",
)  # fmt: skip
RIVALS = ("EASE", "iALS", "UltraGCN", "LightGCN", "LayerGCN", "VBPR", "LATTICE", "BM3", "FREEDOM")
"""Models that ContentEASE is compared with."""
CLOSED_FORM = ("UserKNN", "RP3beta", "SLIM", "EASE", "GF-CF", "BSPM", "iALS", "ContentEASE")
"""Models without epochs that are tuned on every dataset."""
TRAINED = ("MF-BPR", "LightGCN", "VBPR", "LATTICE", "BM3", "FREEDOM")
"""Models with epochs that are tuned as well where the table has them at their papers' settings."""
QUICKLY_FITTED = ("EASE", "ContentEASE")
"""Models that many trials are affordable for."""
IN_TURN_TRIALS = 60
"""Their trials."""
TUNED = "{}, tuned"


def defaults(train: gr.TrainConfig) -> list[Row]:
    """Every model with its default options, to be tuned."""
    return [Row(label, name, model(name).Config(), train) for label, name in NAMES.items()]


def settled(train: gr.TrainConfig, **configs: ModelConfig) -> list[Row]:
    """Every model with settled options, by registered name (``_`` for ``-``). Models in closed form, for
    which no paper has options on these datasets, are tuned; others have their defaults.
    """
    return [
        Row(
            label, name, configs.get(name.replace("-", "_"), model(name).Config()), train,
            trials=8 if label in CLOSED_FORM else None,
        )
        for label, name in NAMES.items()
    ]  # fmt: skip


def tuned(main: Sequence[Row]) -> list[Row]:
    """Trained models of a table of settled options once more, with as many trials as models in closed form,
    and up to two more beyond an edge.
    """
    return [
        replace(row, label=TUNED.format(row.label), trials=8, extend=2)
        for row in main
        if row.label in TRAINED
    ]


def in_turn(main: Sequence[Row]) -> tuple[list[Row], list[tuple[str, str]]]:
    """Models that are fitted in seconds, with the trials that trained models have no time for: one option
    changed at a time until no change is better. And what ContentEASE, with these and with as many trials as
    the others, is compared with: tuned models where the table has them.
    """
    found = [
        replace(
            row, label=f"{row.label}, in turn", sampler="coordinate", trials=IN_TURN_TRIALS, group="in turn"
        )
        for row in main
        if row.label in QUICKLY_FITTED
    ]
    own = ("ContentEASE", "ContentEASE, in turn")
    labels = {row.label for row in main}
    rivals = [
        TUNED.format(label) if TUNED.format(label) in labels else label for label in RIVALS if label in labels
    ]
    return found, [(label, rival) for label in own for rival in rivals]


def controlled(main: Sequence[Row], control: str = "shuffled") -> list[Row]:
    """Each multimodal row with feature vectors shuffled among the items, or with random ones (``noise``)."""
    everything = dict.fromkeys(("image", "text"), control)
    return [
        replace(r, label=f"{r.label}, {control}", control=everything, like=r.label, group=control)
        for r in main
        if r.label in MULTIMODAL
    ]


def modalities(row: Row) -> list[Row]:
    """A row with the image alone and with the text alone."""
    return [
        replace(row, label=f"{row.label}, {m} only", features=(m,), like=row.label, group="modalities")
        for m in ("image", "text")
    ]


def switched_off(freedom: Row) -> list[Row]:
    """FREEDOM without denoising, without freezing, and without either."""
    denoised, frozen = {"dropout": 0.0}, {"freeze_item_graph": False}
    changes = {
        "FREEDOM, no denoising": denoised,
        "FREEDOM, item graph learned": frozen,
        "FREEDOM, neither": denoised | frozen,
    }
    return [
        replace(freedom, label=label, like=freedom.label, change=change, group="parts")
        for label, change in changes.items()
    ]


def checks(main: Sequence[Row], both: bool = True) -> tuple[list[Row], list[tuple[str, str]]]:
    """The checks on the multimodal rows, and what each of them is compared with.

    Args:
        main: the rows of the table.
        both: whether there are images as well as texts.
    """
    freedom = next(r for r in main if r.model == "freedom")
    found = [*controlled(main), *(modalities(freedom) if both else ()), *switched_off(freedom)]
    return found, [(str(row.like), row.label) for row in found]
