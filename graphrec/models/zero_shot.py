"""Zero-shot: items are offered whose content vectors are near a user's, and nothing is learned.

The scoring of Ren and Huang, "EasyRec: Simple yet Effective Language Models for Recommendation", 2024,
https://arxiv.org/abs/2408.08821: the cosine of a user's and an item's text vector. It needs no interactions
of anyone else, so it answers on a catalog that opened today, and shows how much the vectors alone are worth.

``Eq. n`` refers to the numbered equations in docs/models/alpharec.md.

Differences from the authors' code:
- no language model is fine-tuned here: what made the vectors is the choice of the features;
- users without a written profile have the mean of their items' vectors; the authors write one of everyone;
- there is one profile of a user; the authors average results over it and three paraphrases.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from graphrec.core.errors import FeatureError
from graphrec.data.dataset import Dataset
from graphrec.data.interactions import Interactions
from graphrec.features import PROFILE, FeatureTable
from graphrec.models.base import Features, ModelConfig
from graphrec.models.fold_in import FoldIn, MeanFoldIn
from graphrec.models.multimodal import (
    CombinedConfig,
    MultimodalRanker,
    check_same_extractor,
    combined,
    combined_rule,
    tables_of,
    user_means,
)
from graphrec.models.search_space import Choice, Space


class ZeroShot(MultimodalRanker):
    """Cosine of content vectors of items and of users."""

    class Config(CombinedConfig):
        """Options of the zero-shot ranker."""

        profiles: bool = True
        """Take written user profiles (``graphrec llm profiles``) where there are some; users without one have
        the mean of their items' vectors."""
        profile_field: str = "text"
        """The modality of items that profiles are compared with, which then is the only one: it has to be of
        the extractor of the profiles. Without effect if there are no profiles."""

    name = "zero-shot"
    search_space: ClassVar[Space] = {"normalize_features": Choice(True, False)}
    config: Config
    users: Tensor
    content: Tensor

    def __init__(
        self,
        train: Interactions,
        tables: Mapping[str, FeatureTable],
        config: Config,
        profiles: FeatureTable | None = None,
    ) -> None:
        super().__init__()
        self.config, self.train_pairs = config, train
        self.n_users, self.n_items = train.n_users, train.n_items
        if profiles is not None:
            tables = {config.profile_field: comparable(tables, config.profile_field, profiles)}
        items = combined(tables, config, train)
        users, _ = user_means(train, items)  # Eq. 1
        if profiles is not None:
            written = torch.from_numpy(np.array(profiles.present))
            users[written] = torch.from_numpy(profiles.numpy(np.float32))[written]
        self.cold_start_rule = combined_rule(tables, config, None)
        self.register_buffer("content", items, persistent=False)  # (n_items, d_t)
        self.register_buffer("users", normalize(users, dim=1), persistent=False)  # (n_users, d_t)

    @classmethod
    def build(cls, data: Dataset, features: Features | None = None, config: Any = None) -> Self:
        """See :meth:`graphrec.models.base.Model.build`; takes ``profile`` of users besides content."""
        config = config or cls.Config()
        tables = tables_of(cls.__name__, data, features, config.attributes)
        profiles = (features or {}).get(PROFILE) if config.profiles else None
        return cls(data.train, tables, config, None if profiles is None else profiles.check(data))

    @classmethod
    def optional_fields(cls, config: ModelConfig) -> tuple[str, ...]:
        """Profiles, and attributes where they are asked for."""
        profiles = (PROFILE,) if getattr(config, "profiles", False) else ()
        return (*profiles, *super().optional_fields(config))

    def embed(self) -> tuple[Tensor, Tensor]:
        """Vectors of length one, so that their inner products are the scores (Eq. 6)."""
        return self.users, normalize(self.content, dim=1)

    def fold_in(self) -> FoldIn:
        """The mean of the items of a history up to its length, which changes no ranking: exact."""
        return MeanFoldIn(self.content, self.content.new_zeros(self.content.shape[1]))


def comparable(tables: Mapping[str, FeatureTable], field: str, profiles: FeatureTable) -> FeatureTable:
    """The table of a field of items that profiles can be compared with.

    Raises:
        FeatureError: there is no such field, or it is of another extractor.
    """
    if field not in tables:
        raise FeatureError(
            f"profiles are compared with the items' {field!r}, and there are features of {sorted(tables)}; "
            "name one of them in profile_field, or set profiles=false"
        )
    try:
        check_same_extractor(f"{PROFILE} and {field}", profiles, tables[field])
    except FeatureError as cause:
        raise FeatureError(f"{cause}, or set profiles=false") from cause
    return tables[field]
