"""A model of one file that generates lists: beam search over a trie of item codes with two digits each."""

from __future__ import annotations

import math

import torch

from graphrec.core.random import numpy_rng
from graphrec.graphs import sparse
from graphrec.models.base import ModelConfig, Ranker
from graphrec.models.capabilities import Generator, RankedLists


class TrieGenerator(Generator):
    """Item ``i`` has the code ``(i // base, i % base)``; a digit's weight is that of the items below it."""

    def __init__(self, n_items, base, beams):
        super().__init__(n_items=n_items, base=base, beams=beams)
        self.register_buffer("shared", torch.zeros(n_items, n_items))

    def generate(self, query, k, allowed):
        n, base = self.arguments["n_items"], self.arguments["base"]
        taken = torch.from_numpy(sparse.history_matrix(query.histories, n).toarray())
        scores = (taken @ self.shared).masked_fill(~allowed, -torch.inf)
        tree = torch.nn.functional.pad(scores, (0, -n % base), value=-torch.inf).unflatten(1, (-1, base))
        first = tree.logsumexp(2)  # no digit that leads to no allowed item survives
        kept = first.topk(min(self.arguments["beams"], first.shape[1])).indices  # (B, beams)
        leaves = tree.gather(1, kept[:, :, None].expand(-1, -1, base)).flatten(1)
        codes = (kept[:, :, None] * base + torch.arange(base)).flatten(1)
        found = min(k, leaves.shape[1])
        best, at = leaves.topk(found)
        items = codes.gather(1, at).masked_fill(best == -torch.inf, -1)
        missing = (0, k - found)
        pad = torch.nn.functional.pad
        return RankedLists(pad(items, missing, value=-1), pad(best, missing, value=-torch.inf))


class Trie(Ranker):
    """Generates items that share users with those of a history."""

    class Config(ModelConfig):
        """Options of the trie."""

        beams: int = 1000
        """Digits that are kept."""

    name = "trie"
    capability = "generator"
    generator_class = TrieGenerator

    def __init__(self, train, config):
        super().__init__()
        self.config, self.train_pairs = config, train
        self.n_users, self.n_items = train.n_users, train.n_items
        self.generator = TrieGenerator(train.n_items, math.isqrt(train.n_items) + 1, config.beams)
        taken = torch.zeros(train.n_users, train.n_items)
        taken[torch.from_numpy(train.users.copy()).long(), torch.from_numpy(train.items.copy()).long()] = 1
        noise = numpy_rng(0, "trie").random((train.n_items, train.n_items))  # no two items score the same
        self.generator.shared.copy_(taken.T @ taken + 0.01 * torch.from_numpy(noise))

    @classmethod
    def build(cls, data, features=None, config=None):
        return cls(data.train, config or cls.Config())
