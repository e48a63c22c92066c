"""Recommendations for histories: by item weights, or by the module that a model answers queries with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from graphrec.core.errors import CheckpointError, ConfigError
from graphrec.data import Query
from graphrec.graphs import sparse
from graphrec.serving.array_bundle import Bundle
from graphrec.serving.catalog import Items
from graphrec.serving.exact import Rows

if TYPE_CHECKING:
    from graphrec.models.base import Ranker
    from graphrec.models.capabilities import QueryModule

BLOCK = 256
"""Histories that a module answers at once."""
STATE = "module_{}"


def query_module(model: Ranker) -> QueryModule | None:
    """A copy, on the CPU, of the module that a model answers queries with; None if it needs none.

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
    copied = type(module)(**module.arguments)
    copied.load_state_dict({key: value.detach().cpu() for key, value in module.state_dict().items()})
    return copied.eval().requires_grad_(False)


def described(
    module: QueryModule | None, capability: str, meta: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What the head of a saved recommender records of its capability, and the arrays of its module."""
    if capability == "embeddings":
        return {}, {}
    if module is None:
        return {"capability": capability}, {}
    state = module.state_dict()
    arrays = {STATE.format(n): value.numpy() for n, value in enumerate(state.values())}
    facts = {"model": meta["model"], "arguments": module.arguments, "state": list(state)}
    return {"capability": capability, "module": facts}, arrays


def restored(saved: Bundle) -> tuple[str, QueryModule | None]:
    """Capability and module of a saved recommender.

    Raises:
        CheckpointError: the capability is not known, or the module does not fit the class that its model has
            now.
        ConfigError: its model is not registered here.
    """
    capability, facts = saved.head.get("capability", "embeddings"), saved.head.get("module")
    if capability == "embeddings":
        return capability, None
    from graphrec.models import model as model_class
    from graphrec.models.capabilities import CAPABILITIES

    if capability not in CAPABILITIES:
        raise CheckpointError(f"{saved.path}: capability {capability!r} is not one of {CAPABILITIES}")
    if facts is None:
        return capability, None
    found = getattr(model_class(facts["model"]), f"{capability}_class", None)
    if found is None:
        raise CheckpointError(
            f"{saved.path}: model {facts['model']!r} is no {capability} here; train and save it again"
        )
    try:
        module: QueryModule = found(**facts["arguments"])
        module.load_state_dict(
            {
                key: torch.from_numpy(np.array(saved.array(STATE.format(n))))
                for n, key in enumerate(facts["state"])
            }
        )
    except (TypeError, RuntimeError) as cause:
        raise CheckpointError(
            f"{saved.path}: the {capability} of {facts['model']!r} does not fit its class {found.__name__} "
            f"({cause}); train and save it again"
        ) from cause
    return capability, module.eval().requires_grad_(False)


def given(history: Iterable[Any]) -> tuple[list[list[Any]], bool]:
    """Histories as lists of ids, and whether one history was given by itself."""
    if isinstance(history, str):
        raise ConfigError(f"history={history!r}; expected item ids, such as [{history!r}]")
    outer = list(history)
    nested = [not isinstance(one, str) and isinstance(one, Iterable) for one in outer]
    if any(nested) and not all(nested):
        raise ConfigError(f"history={outer!r}; expected item ids, or one list of item ids a user")
    return ([list(one) for one in outer], False) if any(nested) else ([outer], True)


def encoded(
    capability: str, module: QueryModule | None, items: Items, query: Query, meta: Mapping[str, Any]
) -> Rows:
    """Vectors of histories, to be compared with those of items.

    Args:
        capability: of the recommender.
        module: of an encoder.
        items: of the recommender.
        query: with histories of base items.
        meta: of the recommender, for messages.

    Raises:
        ConfigError: the recommender cannot answer histories.
    """
    assert query.histories is not None
    if capability == "item_weights":
        return sparse.history_matrix(query.histories, len(items.base))
    if module is None or capability != "encoder":
        raise ConfigError(
            f"the model of this recommender ({meta.get('model', 'unknown')}) looks users up and cannot "
            "answer a history; ask for known users, or use a model with item weights (itemknn) or an encoder"
        )
    parts = []
    with torch.no_grad():
        for rows in np.array_split(np.arange(len(query)), range(BLOCK, len(query), BLOCK)):
            users = None if query.users is None else query.users[rows]
            parts.append(module(Query(users, query.histories.take(rows))).float())
    return torch.cat(parts)


def generated(
    module: QueryModule | None,
    items: Items,
    query: Query,
    k: int,
    hidden: Sequence[np.ndarray],
    only: np.ndarray | None,
    exclude: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and indices ``(B, k)`` of lists that a generator searches for.

    Args:
        module: the generator.
        items: of the recommender; those added since cannot be generated.
        query: with histories of base items.
        k: length of the lists.
        hidden: items each list must not hold, one array a row.
        only: items to choose among; None: all.
        exclude: items no list may hold.
    """
    assert query.histories is not None
    assert module is not None
    n_base = len(items.base)
    scores = np.full((len(query), k), -np.inf, dtype=np.float32)
    found = np.full((len(query), k), -1, dtype=np.int64)
    common = np.ones(n_base, dtype=bool) if only is None else np.isin(np.arange(n_base), only)
    common[exclude[exclude < n_base]] = False
    with torch.no_grad():
        for rows in np.array_split(np.arange(len(query)), range(BLOCK, len(query), BLOCK)):
            allowed = np.tile(common, (len(rows), 1))
            for at, row in enumerate(rows):
                allowed[at, hidden[row][hidden[row] < n_base]] = False
            users = None if query.users is None else query.users[rows]
            part = Query(users, query.histories.take(rows))
            lists = module.generate(part, k, torch.from_numpy(allowed))  # type: ignore[operator]
            found[rows] = lists.items.numpy()
            scores[rows] = np.where(lists.items.numpy() < 0, -np.inf, lists.scores.numpy())
    return scores, found
