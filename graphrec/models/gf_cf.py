"""GF-CF: a linear filter on the item graph and an ideal low-pass filter.

Shen et al., "How Powerful is Graph Convolution for Recommendation?", CIKM 2021,
https://arxiv.org/abs/2108.07567. A history is smoothed by the items that the same users took, and projected
onto the leading singular vectors of the interactions. With ``alpha=0`` and ``scaled_history`` it is LGCN-IDE
of the same paper: LightGCN with infinitely large embeddings.

Differences from the authors' code: items without interactions score 0, where the code divides by 0; whether
the low-pass filter is added is an option (``alpha``), where the code decides by the name of the dataset.

``Eq. n`` refers to the numbered equations in docs/models/graph-filters.md.
"""

from __future__ import annotations

from typing import ClassVar

from numpy.polynomial import Polynomial
from pydantic import Field

from graphrec.data.interactions import Interactions
from graphrec.models.item_filters import ItemFilters, ItemFiltersConfig, M
from graphrec.models.search_space import Choice, Space


class GFCF(ItemFilters):
    """A linear and an ideal low-pass filter."""

    class Config(ItemFiltersConfig):
        """Options of GF-CF; the defaults are the authors' for Gowalla."""

        alpha: float = Field(0.3, ge=0)
        """Weight of the ideal low-pass filter; 0 leaves it out."""
        n_filters: int = Field(1, ge=1)
        """How often the linear filter is applied."""
        scaled_history: bool = False
        """Divide each interaction of a history by the square root of the item's interactions before the
        linear filter, as LGCN-IDE does."""

    name = "gf-cf"
    search_space: ClassVar[Space] = {
        "rank": Choice(32, 64, 128, 256, 512),
        "alpha": Choice(0.0, 0.1, 0.3, 1.0, 3.0, 10.0),
        "n_filters": Choice(1, 2),
        "scaled_history": Choice(False, True),
    }
    config: Config

    def __init__(self, train: Interactions, config: Config) -> None:
        direct = M**config.n_filters
        super().__init__(train, config, direct, Polynomial([config.alpha]), config.scaled_history)  # Eq. 4
