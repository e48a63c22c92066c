"""How a model answers a :class:`~graphrec.data.query.Query`: one of four capabilities.

============== ==============================================================================================
embeddings     Known users and items have vectors; a score is their inner product.
item_weights   A sparse matrix over items: the scores of a history are its row times the matrix, a row of the
               weights of its items. Known users are answered by their train interactions.
encoder        A module turns a history into a vector beside the embeddings of the items.
generator      A module turns a history into a ranked list, by a search constrained to the items allowed.
============== ==============================================================================================

Evaluation and serving know these four and nothing else of a model.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor, nn

from graphrec.core.errors import ConfigError
from graphrec.data.query import Histories, Query

Capability = Literal["embeddings", "item_weights", "encoder", "generator"]
"""How a model answers queries."""
CAPABILITIES: tuple[str, ...] = get_args(Capability)


ORDERED: tuple[str, ...] = ("encoder", "generator")
"""Capabilities that read a history as a sequence, whose items have an order and no weights."""


def check_unweighted(histories: Histories, model: str) -> None:
    """Raises a ConfigError for histories with weights, which a model of :data:`ORDERED` cannot read."""
    if histories.weights is not None:
        raise ConfigError(
            f"{model} reads a history as a sequence, whose items have no weights; found weights: leave them "
            "out, or use a model without order"
        )


class QueryModule(nn.Module):
    """The part of a model that answers queries, complete without the model and without a dataset.

    A recommender keeps its arguments as JSON and its state as plain arrays. To load it, the class is looked
    up by the registered name of its model, so the package that defines the model has to be installed; nothing
    is unpickled, and a file cannot name code of its own.

    Args:
        **arguments: the JSON-able keyword arguments of the subclass's constructor; another instance made with
            them and given the same ``state_dict`` answers the same.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.arguments = arguments


class Encoder(QueryModule):
    """Turns histories into vectors that are compared with item embeddings by inner product."""

    def forward(self, query: Query) -> Tensor:
        """Vectors ``(B, d) float32`` of ``B`` histories; each row depends on its own history alone."""
        raise TypeError(f"{type(self).__name__} does not define forward()")


class RankedLists(NamedTuple):
    """Items in the order in which they are recommended.

    Attributes:
        items: ``(B, k) int64``, best first, ending in -1 where fewer were found.
        scores: ``(B, k) float32``, descending, ``-inf`` where ``items`` is -1.
    """

    items: Tensor
    scores: Tensor


class Generator(QueryModule):
    """Turns histories into ranked lists of items."""

    def generate(self, query: Query, k: int, allowed: Tensor) -> RankedLists:
        """The ``k`` best items of each history, found by a search that leaves out what is not allowed.

        Args:
            query: ``B`` histories.
            k: length of the lists.
            allowed: which items each list may hold ``(B, n_items) bool``.
        """
        raise TypeError(f"{type(self).__name__} does not define generate()")
