"""Converts datasets and graphs to those of PyG and DGL, and back.

Train interactions become the edge type ``("user", "rates", "item")``; every edge type gets a reverse named
``rev_...``, as PyG's ``ToUndirected`` names it. DGL is the optional extra ``dgl``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from graphrec.core.errors import DataError, GraphError, MissingDependencyError, missing_dependency
from graphrec.data import Dataset, Interactions, Vocabulary
from graphrec.data.dataset import Relation
from graphrec.features import FeatureTable
from graphrec.graphs.graph import Graph

if TYPE_CHECKING:
    from torch_geometric import EdgeIndex
    from torch_geometric.data import HeteroData

RATES: Relation = ("user", "rates", "item")
REVERSE = "rev_"
# PyG's datasets keep held-out edges beside train edges under edge_label_index; validation is named after it.
LABELS = {"test": "edge_label_index", "valid": "edge_label_index_valid"}
TIMES = {"train": "time", "test": "edge_label_time", "valid": "edge_label_time_valid"}


# -- PyG -----------------------------------------------------------------------------------------------------


def to_hetero_data(dataset: Dataset, features: Mapping[str, FeatureTable] | None = None) -> HeteroData:
    """Converts a dataset to PyG ``HeteroData``: train edges for propagation, held-out edges as labels.

    - ``data["user", "rates", "item"]``: ``edge_index (2, E) int64`` (train), ``edge_label_index`` (test),
      ``edge_label_index_valid``, and ``time``, ``edge_label_time``, ``edge_label_time_valid`` where times are
      known;
    - ``data["item", "rev_rates", "user"]``: train edges reversed; further relations likewise, both ways;
    - ``data["item"].x (n_items, d) float32``: all feature tables side by side in the order of their names,
      ``columns`` (name -> first and last + 1 column) and ``present_<name> (n_items,) bool``;
    - ``data.ids``: node type -> external ids. Texts and pictures are not carried over.

    Args:
        dataset: the dataset.
        features: tables for its items.

    Raises:
        DataError: a relation has a reserved name (``rev_...``, ``rates``).
        FeatureError: a table is for other items.
    """
    from torch_geometric.data import HeteroData

    data = HeteroData()
    for node_type, vocabulary in _vocabularies(dataset).items():
        data[node_type].num_nodes = len(vocabulary)
    tables = {name: table.check(dataset) for name, table in sorted((features or {}).items())}
    if tables:
        ends = np.cumsum([0, *(t.dim for t in tables.values())]).tolist()
        data["item"].x = torch.from_numpy(np.concatenate([t.numpy() for t in tables.values()], axis=1))
        data["item"].columns = {n: (ends[i], ends[i + 1]) for i, n in enumerate(tables)}
        for name, table in tables.items():
            data["item"][f"present_{name}"] = torch.from_numpy(np.array(table.present))
    for (source, relation, target), edges in _relations(dataset).items():
        data[source, relation, target].edge_index = edges
        data[target, REVERSE + relation, source].edge_index = edges.flip(0)
    for split, key in LABELS.items():
        data[RATES][key] = _pairs(getattr(dataset, split))
    for split, key in TIMES.items():
        times = getattr(dataset, split).times
        if times is not None:
            data[RATES][key] = torch.from_numpy(times.copy())
    data.ids = {t: np.array(v.ids, dtype=object) for t, v in _vocabularies(dataset).items()}
    return data


def from_hetero_data(
    data: HeteroData, *, user: str = "user", item: str = "item", relation: str = "rates", name: str = "hetero"
) -> Dataset:
    """Builds a dataset from PyG ``HeteroData`` as :func:`to_hetero_data` or PyG's link datasets return it.

    ``edge_index`` of the interactions is train, ``edge_label_index`` test (only its positive edges where
    there is an ``edge_label``), ``edge_label_index_valid`` validation. Reverses (``rev_...``) are left out,
    other edge types become relations. Ids come from ``data.ids``; node types without are numbered.

    Args:
        data: the graph.
        user: node type that becomes ``"user"``.
        item: node type that becomes ``"item"``.
        relation: edge type between them that holds the interactions.
        name: of the dataset.

    Raises:
        DataError: there is no such edge type, numbers of ids and nodes differ, or the splits overlap.
    """
    rates = (user, relation, item)
    if rates not in data.edge_types:
        raise DataError(f"no edge type {rates}; there are {data.edge_types}: name user=, relation= and item=")
    store = data[rates]
    sizes = {t: int(data[t].num_nodes) for t in data.node_types}
    labels = {split: store.get(key) for split, key in LABELS.items()}
    times = {split: store.get(key) for split, key in TIMES.items()}
    if labels["test"] is not None and store.get("edge_label") is not None:
        positive = store["edge_label"] > 0
        labels["test"] = labels["test"][:, positive]
        times["test"] = None if times["test"] is None else times["test"][positive]
    edges = {key: data[key].edge_index for key in data.edge_types if key != rates}
    ids = data.ids if "ids" in data else {}
    return _dataset(
        name, sizes, ids, {"train": store.edge_index, **labels}, times, edges, user, item, relation
    )


def hetero_graphs(dataset: Dataset) -> dict[Relation, Graph]:
    """Converts a dataset to one :class:`~graphrec.graphs.graph.Graph` per edge type, named as in PyG.

    Train interactions are ``("user", "rates", "item")``; further relations have their own names; every edge
    type has its reverse ``rev_...``. Held-out pairs are in none of them. ``graphs[a, r, b] @ x`` takes
    ``(n_a, d)`` to ``(n_b, d)``.

    Args:
        dataset: the dataset.

    Raises:
        DataError: a relation has a reserved name (``rev_...``, ``rates``).
    """
    sizes = {node_type: len(vocabulary) for node_type, vocabulary in _vocabularies(dataset).items()}
    graphs = {}
    for (source, relation, target), edges in _relations(dataset).items():
        graph = Graph.from_edges(
            edges[0], edges[1], n_source=sizes[source], n_target=sizes[target], repeated="sum"
        )
        graphs[source, relation, target] = graph
        graphs[target, REVERSE + relation, source] = graph.t()
    return graphs


def to_edge_index(graph: Graph) -> tuple[EdgeIndex, Tensor]:
    """A graph as PyG ``EdgeIndex (2, E) int64``, sorted by target, and its weights ``(E,) float32``."""
    return graph.edge_index, graph.weight


def from_edge_index(
    edge_index: Tensor,
    weight: Tensor | None = None,
    *,
    n_source: int | None = None,
    n_target: int | None = None,
) -> Graph:
    """Builds a graph from a PyG ``EdgeIndex`` or a plain ``(2, E)`` tensor of (source, target).

    Args:
        edge_index: edges in any order.
        weight: ``(E,)``; default: all 1.
        n_source: number of source nodes; an ``EdgeIndex`` knows it.
        n_target: number of target nodes; likewise.

    Raises:
        GraphError: the sizes are not known, or the edges are unusable.
    """
    own_sizes = edge_index.sparse_size() if hasattr(edge_index, "sparse_size") else (None, None)
    sizes = [
        own if given is None else given for given, own in zip((n_source, n_target), own_sizes, strict=True)
    ]
    if None in sizes or edge_index.dim() != 2 or edge_index.shape[0] != 2:
        raise GraphError(
            f"edge_index of shape {tuple(edge_index.shape)} with sizes {tuple(sizes)}; expected (2, E) "
            "and both n_source= and n_target="
        )
    source, target = (row.cpu().numpy() for row in edge_index.as_subclass(Tensor))
    weights = None if weight is None else weight.detach().cpu().numpy()
    return Graph.from_edges(source, target, weights, n_source=sizes[0], n_target=sizes[1])


# -- DGL -----------------------------------------------------------------------------------------------------


def to_dgl(dataset: Dataset, *, held_out: bool = False) -> Any:
    """Converts a dataset to a DGL heterograph: train edges, further relations, and the reverse of each.

    Ids are not carried over, as DGL keeps tensors only; node ``i`` is index ``i`` of the vocabulary. Times
    are edge data ``"time"``.

    Args:
        dataset: the dataset.
        held_out: add the validation and test edges as edge types ``rates_valid`` and ``rates_test``, without
            reverse. A model that passes messages over all edge types would then see them.

    Raises:
        MissingDependencyError: DGL is not installed (extra ``dgl``) or does not load.
        DataError: a relation has a reserved name (``rev_...``, ``rates``).
    """
    dgl = _dgl()
    edges: dict[Relation, Tensor] = {}
    for (source, relation, target), pairs in _relations(dataset).items():
        edges[source, relation, target] = pairs
        edges[target, REVERSE + relation, source] = pairs.flip(0)
    parts = {RATES: dataset.train}
    if held_out:
        parts |= {_held_out(split): getattr(dataset, split) for split in LABELS}
    edges |= {key: _pairs(part) for key, part in parts.items()}
    sizes = {t: len(v) for t, v in _vocabularies(dataset).items()}
    graph = dgl.heterograph({k: (e[0], e[1]) for k, e in edges.items()}, num_nodes_dict=sizes)
    for key, part in parts.items():
        if part.times is not None:
            graph.edges[key].data["time"] = torch.from_numpy(part.times.copy())
    return graph


def from_dgl(
    graph: Any,
    *,
    ids: Mapping[str, Iterable[Any]] | None = None,
    user: str = "user",
    item: str = "item",
    relation: str = "rates",
    name: str = "dgl",
) -> Dataset:
    """Builds a dataset from a DGL heterograph with the edge types of :func:`to_dgl`.

    Args:
        graph: the heterograph.
        ids: node type -> external ids; types without are numbered.
        user: node type that becomes ``"user"``.
        item: node type that becomes ``"item"``.
        relation: edge type between them that holds the train interactions; ``<relation>_valid`` and
            ``<relation>_test`` hold the others, if there are any.
        name: of the dataset.

    Raises:
        DataError: there is no such edge type, numbers of ids and nodes differ, or the splits overlap.
    """
    rates = (user, relation, item)
    if rates not in graph.canonical_etypes:
        raise DataError(
            f"no edge type {rates}; there are {graph.canonical_etypes}: name user=, relation= and item="
        )
    parts = {"train": rates, **{s: (user, f"{relation}_{s}", item) for s in LABELS}}
    edges = {k: torch.stack(graph.edges(etype=k, order="eid")) for k in graph.canonical_etypes}
    pairs = {split: edges.pop(key, None) for split, key in parts.items()}
    times = {s: graph.edges[k].data.get("time") for s, k in parts.items() if pairs[s] is not None}
    sizes = {t: int(graph.num_nodes(t)) for t in graph.ntypes}
    return _dataset(name, sizes, ids or {}, pairs, times, edges, user, item, relation)


def graph_to_dgl(graph: Graph) -> Any:
    """Converts a graph to a DGL graph, with the weights in ``edata["weight"]``.

    A square graph becomes homogeneous; any other one has the edge type ``("source", "to", "target")``.

    Raises:
        MissingDependencyError: DGL is not installed (extra ``dgl``) or does not load.
    """
    dgl = _dgl()
    edges = (graph.col.long(), graph.target)
    if graph.n_source == graph.n_target:
        result = dgl.graph(edges, num_nodes=graph.n_source)
    else:
        sizes = {"source": graph.n_source, "target": graph.n_target}
        result = dgl.heterograph({("source", "to", "target"): edges}, num_nodes_dict=sizes)
    result.edata["weight"] = graph.weight
    return result


def graph_from_dgl(graph: Any) -> Graph:
    """Builds a graph from a DGL graph with one edge type; weights from ``edata["weight"]``, else all 1.

    Raises:
        GraphError: it has several edge types.
    """
    if len(graph.canonical_etypes) != 1:
        raise GraphError(f"{len(graph.canonical_etypes)} edge types; expected one: take graph[etype]")
    source_type, _, target_type = graph.canonical_etypes[0]
    edges = torch.stack(graph.edges(order="eid"))
    weight = graph.edata.get("weight")
    return from_edge_index(
        edges, weight, n_source=graph.num_nodes(source_type), n_target=graph.num_nodes(target_type)
    )


# -- shared --------------------------------------------------------------------------------------------------


def _dgl() -> Any:
    try:
        import dgl
    except ImportError as cause:
        raise missing_dependency("dgl", "dgl") from cause
    except OSError as cause:  # DGL's binaries are built for one torch each
        raise MissingDependencyError(
            f"dgl is installed and does not load beside torch {torch.__version__} ({cause}); run: "
            "pip install 'graphrec[dgl]'"
        ) from cause
    return dgl


def _vocabularies(dataset: Dataset) -> dict[str, Vocabulary]:
    return {"user": dataset.users, "item": dataset.items, **dataset.nodes}


def _held_out(split: str) -> Relation:
    return (RATES[0], f"{RATES[1]}_{split}", RATES[2])


def _pairs(part: Interactions) -> Tensor:
    """``(2, E) int64``."""
    return torch.from_numpy(np.stack([part.users, part.items]).astype(np.int64))


def _relations(dataset: Dataset) -> dict[Relation, Tensor]:
    """Train interactions and further relations, each ``(2, E) int64``."""
    for key in dataset.relations:
        if key[1].startswith(REVERSE) or key in (RATES, *map(_held_out, LABELS)):
            raise DataError(
                f"{dataset.name}: relation {key} has a name that is reserved in PyG and DGL graphs; rename it"
            )
    further = {k: torch.from_numpy(e.astype(np.int64)) for k, e in dataset.relations.items()}
    return {RATES: _pairs(dataset.train), **further}


def _dataset(
    name: str,
    sizes: Mapping[str, int],
    ids: Mapping[str, Any],
    pairs: Mapping[str, Tensor | None],
    times: Mapping[str, Tensor | None],
    edges: Mapping[Relation, Tensor],
    user: str,
    item: str,
    relation: str,
) -> Dataset:
    """A dataset from tensors; ``pairs`` and ``times`` by split, ``edges`` the other edge types."""
    role = {user: "user", item: "item"}
    vocabularies = {}
    for node_type, size in sizes.items():
        node_ids = ids.get(node_type)
        vocabulary = Vocabulary(range(size) if node_ids is None else node_ids, role.get(node_type, node_type))
        if len(vocabulary) != size:
            raise DataError(
                f"{name}: {len(vocabulary):,} ids for {size:,} nodes of type {node_type!r}; expected one each"
            )
        vocabularies[node_type] = vocabulary

    def part(split: str) -> Interactions:
        edge_index, edge_times = pairs.get(split), times.get(split)
        if edge_index is None:
            return Interactions([], [], sizes[user], sizes[item], name=split)
        users, items = edge_index.as_subclass(Tensor).cpu().numpy()
        seconds = None if edge_times is None else edge_times.cpu().numpy()
        return Interactions(users, items, sizes[user], sizes[item], seconds, split)

    reverses = {(t, REVERSE + r, s) for s, r, t in [*edges, (user, relation, item)]}
    relations = {
        (role.get(s, s), r, role.get(t, t)): e.as_subclass(Tensor).cpu().numpy().astype(np.int32)
        for (s, r, t), e in edges.items()
        if (s, r, t) not in reverses
    }
    return Dataset(
        name,
        vocabularies[user],
        vocabularies[item],
        part("train"),
        part("valid"),
        part("test"),
        nodes={t: v for t, v in vocabularies.items() if t not in role},
        relations=relations,
    )
