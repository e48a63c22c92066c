"""Factors of users and items by alternating least squares."""

from __future__ import annotations

import torch
from torch import Tensor

from graphrec.data.interactions import Interactions
from graphrec.data.query import Histories
from graphrec.models.fold_in import LeastSquaresFoldIn, least_squares

INITIAL_SCALE = 0.1  # of initial vectors, as Rendle et al.


def alternating_least_squares(
    train: Interactions, dim: int, n_iterations: int, rule: LeastSquaresFoldIn, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Solves for the vectors of all users and of all items in turn, each a least squares problem; the users'
    come last and are the best for the items'.

    Hu, Koren and Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008,
    https://doi.org/10.1109/ICDM.2008.22.

    Args:
        train: the interactions.
        dim: size of the vectors.
        n_iterations: times that both sides are solved for.
        rule: weights of observed and other cells, and the penalty.
        generator: of the items' initial vectors.

    Returns:
        ``(n_users, dim), (n_items, dim)``.
    """
    by_user = Histories(train.items, train.indptr)
    turned = Interactions(train.items, train.users, train.n_items, train.n_users)
    by_item = Histories(turned.items, turned.indptr)
    items = torch.empty(train.n_items, dim)
    items.normal_(std=INITIAL_SCALE / dim**0.5, generator=generator)
    for _ in range(n_iterations):
        users = least_squares(items, by_user, rule)
        items = least_squares(users, by_item, rule)
    return least_squares(items, by_user, rule), items
