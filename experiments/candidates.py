"""Rows that several experiments share: baselines, and FREEDOM per modality, four grid points each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.harness import Candidate

FREEDOM_GRID = [{"dropout": d, "reg_weight": r} for d in (0.5, 0.8) for r in (1e-3, 1e-1)]


def multimodal(train: Mapping[str, Any]) -> list[Candidate]:
    """Popularity, MF-BPR, LightGCN, and FREEDOM with the image alone, the text alone and both.

    Args:
        train: options of training, the same for all.
    """
    return [
        Candidate("Popularity", "popularity"),
        Candidate("MF-BPR", "mf", [{"reg_weight": r} for r in (1e-3, 1e-2, 1e-1, 0.3)], train),
        Candidate("LightGCN", "lightgcn", [{"n_layers": n, "reg_weight": 1e-3} for n in (1, 2, 3, 4)], train),
        Candidate("FREEDOM (image)", "freedom", FREEDOM_GRID, train, ("image",)),
        Candidate("FREEDOM (text)", "freedom", FREEDOM_GRID, train, ("text",)),
        Candidate("FREEDOM", "freedom", FREEDOM_GRID, train),
    ]
