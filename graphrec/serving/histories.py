"""Recommendations for histories: query vectors from item weights or an encoder, or a generator's lists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from graphrec.core.errors import CheckpointError, ConfigError
from graphrec.data import Query
from graphrec.graphs import sparse
from graphrec.models.fold_in import FoldIn, Folding, LeastSquaresFoldIn, MeanFoldIn
from graphrec.serving.array_bundle import Bundle
from graphrec.serving.catalog import Items
from graphrec.serving.exact import Rows
from graphrec.serving.query import Limits, TopK, empty_topk

if TYPE_CHECKING:
    from graphrec.models.base import Ranker
    from graphrec.models.capabilities import QueryModule

BLOCK = 256
"""Histories given to a module at once."""
STATE_PART = "module_{}"


def query_module(model: Ranker) -> QueryModule | None:
    """A copy, on the CPU, of a model's encoder or generator; None if the model has neither.

    Raises:
        ConfigError: the model has no name to load the module by, or names another class than the module's.
    """
    if model.capability not in ("encoder", "generator"):
        return None
    module: QueryModule = getattr(model, model.capability)
    expected = getattr(model, f"{model.capability}_class")
    if not model.name or type(module) is not expected:
        raise ConfigError(
            f"{type(model).__name__}: a recommender needs the model's registered name and its "
            f"{model.capability}_class to load the {model.capability} again; found name={model.name!r}, "
            f"{model.capability}_class={expected!r} and a {type(module).__name__}"
        )
    module_copy = type(module)(**module.arguments)
    module_copy.load_state_dict({key: value.detach().cpu() for key, value in module.state_dict().items()})
    return module_copy.eval().requires_grad_(False)


def fold_in_rule(model: Ranker, items: Any) -> FoldIn | None:
    """A copy, on the CPU, of a model's rule for histories; None for models that answer them otherwise, and
    where the item vectors are sparse.
    """
    if model.capability != "embeddings" or not isinstance(items, np.ndarray):
        return None
    training = model.training
    model.eval()
    with torch.no_grad():
        rule = model.fold_in()
    model.train(training)
    if isinstance(rule, LeastSquaresFoldIn):
        return rule
    return MeanFoldIn(*(value.detach().float().cpu().clone() for value in rule))


def module_to_saved(
    module: QueryModule | None, capability: str, meta: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Entries of a saved recommender's head for its capability, and the arrays of its module."""
    if capability == "embeddings":
        return {}, {}
    if module is None:
        return {"capability": capability}, {}
    state = module.state_dict()
    arrays = {STATE_PART.format(n): value.numpy() for n, value in enumerate(state.values())}
    facts = {"model": meta["model"], "arguments": module.arguments, "state": list(state)}
    return {"capability": capability, "module": facts}, arrays


def module_from_saved(saved: Bundle) -> tuple[str, QueryModule | None]:
    """The capability and the module that were saved by :func:`module_to_saved`.

    Raises:
        CheckpointError: the capability is unknown, or the module does not fit the present class of its model.
        ConfigError: its model is not registered here.
    """
    capability = saved.head.get("capability", "embeddings")
    facts = saved.head.get("module")
    if capability == "embeddings":
        return capability, None
    from graphrec.models import model as model_class
    from graphrec.models.capabilities import CAPABILITIES

    if capability not in CAPABILITIES:
        raise CheckpointError(f"{saved.path}: capability {capability!r} is not one of {CAPABILITIES}")
    if facts is None:
        return capability, None
    module_class = getattr(model_class(facts["model"]), f"{capability}_class", None)
    if module_class is None:
        raise CheckpointError(
            f"{saved.path}: model {facts['model']!r} is no {capability} here; train and save it again"
        )
    try:
        module: QueryModule = module_class(**facts["arguments"])
        module.load_state_dict(
            {
                key: torch.from_numpy(np.array(saved.array(STATE_PART.format(n))))
                for n, key in enumerate(facts["state"])
            }
        )
    except (TypeError, RuntimeError) as cause:
        raise CheckpointError(
            f"{saved.path}: the {capability} of {facts['model']!r} does not fit its class "
            f"{module_class.__name__} ({cause}); train and save it again"
        ) from cause
    return capability, module.eval().requires_grad_(False)


def as_histories(history: Iterable[Any]) -> tuple[list[list[Any]], bool]:
    """Histories as lists of ids, and whether ``history`` is a single history rather than one per user."""
    if isinstance(history, str):
        raise ConfigError(f"history={history!r}; expected item ids, such as [{history!r}]")
    outer = list(history)
    nested = [not isinstance(entry, str) and isinstance(entry, Iterable) for entry in outer]
    if any(nested) and not all(nested):
        raise ConfigError(f"history={outer!r}; expected item ids, or one list of item ids per user")
    return ([list(entry) for entry in outer], False) if any(nested) else ([outer], True)


def as_numbers(values: Iterable[Any] | None, name: str, single: bool) -> list[list[Any]] | None:
    """Numbers beside the items of histories, as one list per history; None for None.

    Args:
        values: one number an item of a ``single`` history, else one list of numbers per user.
        name: of the argument, for messages.
        single: whether there is a single history, as :func:`as_histories` says.
    """
    if values is None:
        return None
    several = isinstance(values, Iterable) and not isinstance(values, str)
    outer = list(values) if several else []
    nested = [isinstance(entry, Iterable) and not isinstance(entry, str) for entry in outer]
    if not several or (any(nested) if single else not all(nested)):
        form = "one number for each item of history" if single else "one list of numbers per user"
        raise ConfigError(f"{name}={values!r}; expected {form}")
    return [outer] if single else [list(entry) for entry in outer]


def fold_in_to_saved(rule: FoldIn | None) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Entries of a saved recommender's head for its fold-in rule, and the rule's arrays."""
    if rule is None:
        return {}, {}
    if isinstance(rule, LeastSquaresFoldIn):
        return {"fold_in": {"kind": "least_squares", **rule._asdict()}}, {}
    arrays = {f"fold_in_{name}": value.numpy() for name, value in rule._asdict().items()}
    return {"fold_in": {"kind": "mean"}}, arrays


def fold_in_from_saved(saved: Bundle) -> FoldIn | None:
    """The rule that was saved by :func:`fold_in_to_saved`; None in recommenders saved without one.

    Raises:
        CheckpointError: the rule is of an unknown kind.
    """
    facts = dict(saved.head.get("fold_in") or {})
    kind = facts.pop("kind", None)
    if kind is None:
        return None
    if kind == "least_squares":
        return LeastSquaresFoldIn(**facts)
    if kind == "mean":
        table, bias = (saved.array(f"fold_in_{name}", mmap=True) for name in MeanFoldIn._fields)
        return MeanFoldIn(torch.from_numpy(table), torch.from_numpy(bias))
    raise CheckpointError(f"{saved.path}: fold-in rule {kind!r} is not one of 'mean', 'least_squares'")


def folding(rule: FoldIn, items: Items) -> Folding:
    """A rule with the base items, which are all that histories hold."""
    return Folding(rule, torch.from_numpy(np.asarray(items.base.table)))


def encode_histories(
    capability: str,
    module: QueryModule | None,
    fold: Folding | None,
    items: Items,
    query: Query,
    meta: Mapping[str, Any],
) -> Rows:
    """Query vectors ``(B, d)`` of histories of base items, to be compared with item vectors.

    Raises:
        ConfigError: the recommender cannot take histories.
    """
    if capability == "item_weights":
        assert query.histories is not None
        return sparse.history_matrix(query.histories, len(items.base))
    if capability == "embeddings" and fold is not None:
        assert query.histories is not None
        return fold(query.histories)
    if module is None or capability != "encoder":
        raise ConfigError(
            f"this recommender ({meta.get('model', 'unknown')}) cannot answer a history: it was saved before "
            "models with embeddings could, or its embeddings are sparse; train and save it again, or ask for "
            "known users"
        )
    with torch.no_grad():
        return torch.cat([module(part).float() for _, part in _query_blocks(query)])


def generate_lists(
    module: QueryModule | None,
    items: Items,
    query: Query,
    hidden: Sequence[np.ndarray],
    limits: Limits,
) -> TopK:
    """The lists that a generator produces for histories, without the ``hidden`` item indices of each row.

    Added items cannot be generated.
    """
    assert module is not None
    n_base = len(items.base)
    k, only, exclude = limits
    scores, indices = empty_topk(len(query), k)
    common = np.ones(n_base, dtype=bool) if only is None else np.isin(np.arange(n_base), only)
    common[exclude[exclude < n_base]] = False
    with torch.no_grad():
        for rows, part in _query_blocks(query):
            allowed = np.tile(common, (len(rows), 1))
            for position, row in enumerate(rows):
                allowed[position, hidden[row][hidden[row] < n_base]] = False
            lists = module.generate(part, k, torch.from_numpy(allowed))  # type: ignore[operator]
            indices[rows] = lists.items.numpy()
            scores[rows] = np.where(lists.items.numpy() < 0, -np.inf, lists.scores.numpy())
    return scores, indices


def _query_blocks(query: Query) -> Iterator[tuple[np.ndarray, Query]]:
    """Yields blocks of at most :data:`BLOCK` histories, each with its row numbers."""
    assert query.histories is not None
    for rows in np.array_split(np.arange(len(query)), range(BLOCK, len(query), BLOCK)):
        users = None if query.users is None else query.users[rows]
        yield rows, Query(users, query.histories.take(rows))
