"""What makes ContentEASE better and what does not, on validation alone.

Each variant is tried over one grid of penalty, dropout and weight of the prior, and the best recall@20 and
NDCG@20 of the grid are printed; a best of a grid is too optimistic, by as much for every variant. The priors
are graphs over items: of the content, of attributes (a graph each, equal shares), of co-occurrence, of the
item factors that iALS and FREEDOM learned, and mixtures; also regressions of the content's vectors on one
another, and these vectors as further users. Then the scores of ContentEASE are added to those of
iALS and FREEDOM, by weights that are chosen on validation; only these sums are evaluated on test, once,
beside their parts.

The option ``factors_weight`` is measured by itself: for each share of the graph of factors, the best of the
grid on validation, evaluated on test with factors of three seeds; and with factors shuffled among items.

    python -m experiments.content_priors              # about half an hour
    python -m experiments.content_priors --datasets movielens-small
    python -m experiments.content_priors --parts factors    # factors_weight alone: some minutes
    python -m experiments.content_priors --parts attributes # the items' attributes alone: a minute
    python -m experiments.content_priors --parts regressions # regressions of content vectors alone
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix, diags

import graphrec as gr
from experiments.content import features_of_dataset
from experiments.harness import completed, divided
from experiments.recording import RESULTS, read_result, write_result
from experiments.rendering import spread
from graphrec.core.files import read_json
from graphrec.core.random import numpy_rng
from graphrec.features import FeatureStore, FeatureTable
from graphrec.features.extract import extractor
from graphrec.features.extract.llm import catalog
from graphrec.features.extract.llm.tables import write_attributes
from graphrec.graphs.knn import knn
from graphrec.graphs.sparse import interaction_matrix, to_scipy
from graphrec.models import model as model_class
from graphrec.models.content_ease import ContentEASE, content_prior, item_factors, symmetric_neighbors
from graphrec.models.content_regression import content_regression, unit_vectors

RESULT = RESULTS / "content_priors.json"
DATASETS = ("amazon-scientific", "movielens-small", "xwines")
PENALTIES, DROPOUTS, WEIGHTS = (100.0, 300.0), (0.4, 0.6), (0.25, 0.5, 0.75, 1.0)
NEIGHBORS, SHARE = 20, 0.25
"""Neighbors in the graphs of co-occurrence and factors, and their share where they are mixed with content."""
IMAGE_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the picture among which the leave-one-out error chooses."""
MIXED = (0.0, 0.2, 0.4, 0.6)
"""Shares of the scores of iALS and of FREEDOM that are tried."""
METRICS = ("recall@20", "ndcg@20")
PARTS = ("priors", "attributes", "factors", "regressions")
VECTOR_WEIGHT = 10.0
"""What an item's vector of length one counts as, in users."""
WITH_ATTRIBUTES = ("movielens-small", "xwines")
"""Datasets that can be read with attributes of their items."""
FACTOR_SHARES = (0.0, 0.25, 0.5, 0.75)
FACTOR_SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Scores:
    """Scores of all items for some users, as an evaluation takes them."""

    values: torch.Tensor  # (n_users, n_items)

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.values)

    @property
    def n_items(self) -> int:
        """Number of items."""
        return self.values.shape[1]

    def scorer(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """The rows of some users."""
        return lambda users: self.values[users]


class Point(NamedTuple):
    """A point of the grid.

    Attributes:
        options: its values.
        scores: of all items for all users.
        error: closed-form leave-one-out error: the squared residual of each user as predicted by a regression
            on the other users, up to the constraint on the diagonal.
    """

    options: dict[str, float]
    scores: Scores
    error: float


class Regression:
    """The regression of a dataset for all points of the grid.

    Args:
        data: the dataset.
        user_weights: of each user's row of X ``(n_users,)``; None: 1.
    """

    def __init__(self, data: gr.Dataset, user_weights: np.ndarray | None = None) -> None:
        x = interaction_matrix(data.train, "float64")
        weighted = x if user_weights is None else diags(user_weights) @ x
        self.x = x
        self.gram = (x.T @ weighted).toarray()
        self.degree = np.diag(self.gram).copy()

    @cached_property
    def dense(self) -> torch.Tensor:
        """``X (n_users, n_items) float32``."""
        return torch.from_numpy(self.x.toarray().astype(np.float32))

    @cached_property
    def inverses(self) -> dict[tuple[float, float], tuple[np.ndarray, np.ndarray]]:
        """Penalty and dropout -> the inverse ``A^-1`` and the diagonal of ``Lambda``."""
        found = {}
        for penalty, dropout in itertools.product(PENALTIES, DROPOUTS):
            diagonal = penalty + dropout / (1 - dropout) * self.degree
            found[penalty, dropout] = np.linalg.inv(self.gram + np.diag(diagonal)), diagonal
        return found

    def grid(self, prior: csr_matrix | None) -> list[Point]:
        """Every point of the grid."""
        found = []
        for (penalty, dropout), (inverse, diagonal) in self.inverses.items():
            base = self._scores(-inverse * diagonal, inverse, identity=True)
            toward = None if prior is None else self._scores(inverse @ (diags(diagonal) @ prior), inverse)
            leverage = torch.from_numpy(np.asarray(self.x.multiply(self.x @ inverse).sum(1)).ravel())
            left_out = (1 - leverage).float()[:, None]
            for weight in WEIGHTS if toward is not None else (0.0,):
                total = base if toward is None else base + weight * toward
                error = float(((self.dense - total) / left_out).square().mean())
                options = {"reg_weight": penalty, "dropout": dropout, "content_weight": weight}
                found.append(Point(options, Scores(total), error))
        return found

    def _scores(self, free: np.ndarray, inverse: np.ndarray, identity: bool = False) -> torch.Tensor:
        """Scores by a part of ``Q``, after the multiple of ``A^-1`` that makes its diagonal zero."""
        on_diagonal = np.diag(free) + identity
        weights = free - inverse * (on_diagonal / np.diag(inverse))
        if identity:
            np.fill_diagonal(weights, 0)
        return torch.from_numpy((self.x @ weights).astype(np.float32))


def validated(data: gr.Dataset, scores: Scores) -> dict[str, float]:
    """Metrics on validation."""
    report = gr.evaluate(scores, data.valid, seen=data.train, metrics=("recall", "ndcg"), k=(20,))
    return {name: report.mean()[name] for name in METRICS}


def neighbor_graph(vectors: np.ndarray, data: gr.Dataset) -> csr_matrix:
    """The normalized symmetric graph of the nearest neighbors by cosine, as Eqs. 2 and 3 of ContentEASE make
    it of content.
    """
    table = FeatureTable.from_array(vectors.astype(np.float32), data, "vectors")
    return to_scipy(symmetric_neighbors(knn(table, NEIGHBORS + 1, weight="cosine")))


def trained(
    data: gr.Dataset, tables: Mapping[str, FeatureTable], label: str, record: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """User and item embeddings of a model with its recorded options at seed 0."""
    name = {"iALS": "ials", "FREEDOM": "freedom"}[label]
    options = record["rows"].get(label, {"options": {}})["options"]
    own, train = divided(options)
    cls = model_class(name)
    config = cls.Config(**own, seed=0)
    model = cls.build(data, tables if cls.needs_features(config) else None, config)
    settings = gr.TrainConfig(**{**completed(record["defaults"]["train"]), **train, "seed": 0})
    task = gr.RankingTask(data.valid, seen=data.train, k=20, metrics=("recall", "ndcg"))
    run = gr.Trainer(settings).fit(model, validate=task, select="recall@20")
    with torch.no_grad():
        users, items = run.model.embed()
    return users.numpy(), items.numpy()


def priors(
    data: gr.Dataset,
    tables: Mapping[str, FeatureTable],
    config: ContentEASE.Config,
    factors: Mapping[str, np.ndarray],
) -> dict[str, csr_matrix | None]:
    """The graphs that weights are shrunk toward, by name."""
    content = content_prior(tables, config.weights_of(tables), data.train, config)
    x = interaction_matrix(data.train, "float64")
    shared = (x.T @ x).tolil()
    shared.setdiag(0)
    other = {"co-occurrence": neighbor_graph(shared.toarray(), data)}
    other |= {f"{label} items": neighbor_graph(items, data) for label, items in factors.items()}
    walk = diags(1 / np.maximum(np.asarray(content.sum(1)).ravel(), 1e-9)) @ content
    found: dict[str, csr_matrix | None] = {"none (EASE)": None, "content": content}
    found["content, rows that sum to 1"] = walk.tocsr()
    found["content and neighbors of neighbors"] = ((content + content @ content) / 2).tocsr()
    return found | other | with_content(content, other)


def attribute_priors(
    data: gr.Dataset,
    tables: Mapping[str, FeatureTable],
    attributes: Mapping[str, FeatureTable],
    config: ContentEASE.Config,
) -> dict[str, csr_matrix]:
    """The same of the items' attributes."""
    own = {"attributes": content_prior(attributes, config.weights_of(attributes), data.train, config)}
    content = content_prior(tables, config.weights_of(tables), data.train, config)
    return own | with_content(content, own)


def regressions(
    data: gr.Dataset, tables: Mapping[str, FeatureTable], config: ContentEASE.Config
) -> dict[str, list[Point]]:
    """The grids of priors that regress the content's vectors on one another, and of a regression that takes
    these vectors as further users.
    """
    shares = config.weights_of(tables)
    content = content_prior(tables, shares, data.train, config)
    left, right = content_regression(tables, shares, config.content_penalty, config.fill, data.train)
    dense = csr_matrix(left @ right)
    regression = Regression(data)
    with_vectors = Regression(data)
    found = {
        "regression of the content (L3AE)": regression.grid(dense),
        "content and its regression, half each": regression.grid(((content + dense) / 2).tocsr()),
    }
    for modality, share in shares.items():
        unit = unit_vectors(tables[modality], config.fill, data.train)
        with_vectors.gram += VECTOR_WEIGHT * share * (unit @ unit.T)
    return found | {"none, content vectors as further users": with_vectors.grid(None)}


def with_content(content: csr_matrix, graphs: Mapping[str, csr_matrix]) -> dict[str, csr_matrix]:
    """Each graph mixed into that of the content."""
    return {
        f"content and {name}": ((1 - SHARE) * content + SHARE * graph).tocsr()
        for name, graph in graphs.items()
    }


def own_config(record: Mapping[str, Any]) -> ContentEASE.Config:
    """Recorded numbers of neighbors and shares of modalities, and otherwise the defaults."""
    rows = record["rows"]
    options = rows.get("ContentEASE, in turn", rows.get("ContentEASE", {})).get("options", {})
    return ContentEASE.Config(**{k: v for k, v in options.items() if k in ("knn_k", "image_weight")})


def measure(
    data: gr.Dataset, tables: Mapping[str, FeatureTable], record: Mapping[str, Any]
) -> dict[str, Any]:
    """All variants on one dataset."""
    config = own_config(record)
    embeddings = {label: trained(data, tables, label, record) for label in ("iALS", "FREEDOM")}
    regression = Regression(data)
    graphs = priors(data, tables, config, {label: items for label, (_, items) in embeddings.items()})
    found: dict[str, dict[str, Any]] = {}
    for name, graph in graphs.items():
        grid = regression.grid(graph)
        found[name] = best_of(data, grid)
        if name == "content":
            own = next(point.scores for point in grid if point.options == found[name]["at"])
            least = min(grid, key=lambda point: point.error)
    weights = data.train.user_degree.clip(1) ** -0.5
    grid = Regression(data, weights).grid(graphs["content"])
    found["content, users weighted by d^-1/2"] = best_of(data, grid)
    found["content, options of least leave-one-out error"] = best_of(data, [least])
    if len(tables) > 1:
        by_error = []
        for share in IMAGE_WEIGHTS:
            weighed = config.replace(image_weight=share)
            grid = regression.grid(content_prior(tables, weighed.weights_of(tables), data.train, weighed))
            error = min(point.error for point in grid)
            by_error.append((error, {**best_of(data, grid), "image_weight": share}))
        _, chosen = min(by_error, key=lambda pair: pair[0])
        found["content, modality weights of least leave-one-out error"] = chosen
    return {"variants": found, "sums": sums(data, own, embeddings)}


def factor_shares(
    data: gr.Dataset, tables: Mapping[str, FeatureTable], record: Mapping[str, Any]
) -> dict[str, Any]:
    """Each share of the graph of factors: options and validation metrics by :func:`best_of` at the first
    seed, and with these options the test metrics at every seed.
    """
    config = own_config(record)
    content = content_prior(tables, config.weights_of(tables), data.train, config)
    regression = Regression(data)
    graphs: dict[bool, list[csr_matrix]] = {False: [], True: []}  # whether shuffled -> one of each seed
    for seed in FACTOR_SEEDS:
        factors = item_factors(data.train, seed)
        shuffled_factors = numpy_rng(seed, "shuffled factors").permutation(factors)
        graphs[False].append(neighbor_graph(factors, data))
        graphs[True].append(neighbor_graph(shuffled_factors, data))
    found = {}
    for share, shuffled in [(s, False) for s in FACTOR_SHARES] + [(s, True) for s in FACTOR_SHARES if s]:
        values: dict[str, list[float]] = {metric: [] for metric in METRICS}
        chosen: dict[str, Any] = {}
        for graph in graphs[shuffled] if share else graphs[False][:1]:
            grid = regression.grid(((1 - share) * content + share * graph).tocsr())
            chosen = chosen or best_of(data, grid)
            point = next(p for p in grid if p.options == chosen["at"])
            report = gr.evaluate(
                point.scores, data.test, seen=data.train, metrics=("recall", "ndcg"), k=(20,)
            )
            for metric in METRICS:
                values[metric].append(report.mean()[metric])
        name = f"{share:g}, factors shuffled" if shuffled else f"{share:g}"
        valid = {metric: chosen[metric] for metric in METRICS}
        found[name] = {"at": chosen["at"], "valid": valid, "test": values}
    return found


def best_of(data: gr.Dataset, grid: Sequence[Point]) -> dict[str, Any]:
    """The best of a grid on validation: recall with its options, and NDCG."""
    values = [validated(data, point.scores) for point in grid]
    at = max(range(len(grid)), key=lambda n: values[n]["recall@20"])
    return {
        "recall@20": values[at]["recall@20"],
        "ndcg@20": max(value["ndcg@20"] for value in values),
        "at": grid[at].options,
    }


def sums(
    data: gr.Dataset, own: Scores, embeddings: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> dict[str, Any]:
    """Sums of scores of several models, standardized for each user; the shares are chosen on validation."""
    parts = [own.values, *(torch.from_numpy(users @ items.T) for users, items in embeddings.values())]
    parts = [(p - p.mean(1, keepdim=True)) / p.std(1, keepdim=True) for p in parts]
    tried = [
        (1 - a - b, a, b) for a, b in itertools.product(MIXED, MIXED) if a + b <= 1
    ] + [(0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]  # fmt: skip
    chosen: dict[str, Any] = {}
    groups = {
        "ContentEASE": lambda s: s == (1, 0, 0),
        "iALS": lambda s: s == (0, 1, 0),
        "FREEDOM": lambda s: s == (0, 0, 1),
        "ContentEASE and iALS": lambda s: s[0] > 0 and s[2] == 0,
        "ContentEASE and FREEDOM": lambda s: s[0] > 0 and s[1] == 0,
        "all three": lambda s: s[0] > 0,
    }
    values = {}
    for shares in tried:
        values[shares] = validated(data, Scores(_mixed(parts, shares)))
    for name, member in groups.items():
        shares = max((s for s in tried if member(s)), key=lambda s: values[s]["recall@20"])
        report = gr.evaluate(
            Scores(_mixed(parts, shares)), data.test, seen=data.train, metrics=("recall", "ndcg"), k=(20,)
        )
        chosen[name] = {
            "shares": list(shares),
            "valid": values[shares],
            "test": {metric: report.mean()[metric] for metric in METRICS},
        }
    return chosen


def _mixed(parts: list[torch.Tensor], shares: tuple[float, ...]) -> torch.Tensor:
    total: torch.Tensor = sum(share * part for share, part in zip(shares, parts, strict=True))  # type: ignore[assignment]
    return total


def opened(name: str, root: str | None, store: Path) -> tuple[gr.Dataset, Mapping[str, FeatureTable]]:
    """A dataset and its features by field."""
    data = gr.load_dataset(name, root=root)
    return data, features_of_dataset(data, root, store)


def written_attributes(name: str, root: str | None, store: Path) -> Mapping[str, FeatureTable]:
    """The attributes of a dataset's items as features, a table for each group of them."""
    data = gr.load_dataset(name, root=root, attributes=True)
    texts = catalog.attributes(data)
    return write_attributes(data, texts, extractor("tfidf-svd"), FeatureStore(store))


def options_of(name: str) -> dict[str, Any]:
    """The recorded table of a dataset, whose options are used."""
    return read_result(RESULTS / f"{name.replace('-', '_')}.json")


def measured_part(part: str, name: str, root: str | None, store: Path) -> dict[str, Any]:
    """A part of the tables of a dataset: ``variants``, and ``sums`` or ``factors``.

    Args:
        part: one of :data:`PARTS`.
        name: of the dataset.
        root: folder with the datasets.
        store: of the features.
    """
    data, tables = opened(name, root, store)
    record = options_of(name)
    if part == "priors":
        return measure(data, tables, record)
    if part == "factors":
        return {"factors": factor_shares(data, tables, record)}
    config, grids = own_config(record), {}
    if part == "regressions":
        grids = regressions(data, tables, config)
    elif name in WITH_ATTRIBUTES:
        regression = Regression(data)
        graphs = attribute_priors(data, tables, written_attributes(name, root, store), config)
        grids = {label: regression.grid(graph) for label, graph in graphs.items()}
    return {"variants": {label: best_of(data, grid) for label, grid in grids.items()}}


def part_of(variant: str) -> str:
    """The part that a variant is measured in."""
    if "attributes" in variant:
        return "attributes"
    return "regressions" if "regression" in variant or "vectors" in variant else "priors"


def variants_table(found: Mapping[str, Any]) -> str:
    """The recorded variants as markdown, on validation."""
    variants = {name: of["variants"] for name, of in found.items()}
    return _table("weights are shrunk toward", variants)


def sums_table(found: Mapping[str, Any]) -> str:
    """The recorded sums of scores as markdown, on test."""
    sums = {
        name: {label: values["test"] for label, values in of["sums"].items()} for name, of in found.items()
    }
    return _table("scores", sums)


def factors_table(found: Mapping[str, Any]) -> str:
    """The recorded shares of the graph of factors as markdown: validation, and mean and standard deviation on
    test.
    """
    heads = [
        "factors_weight",
        *(f"{name}, {head}" for name in found for head in ("valid R@20", "R@20", "N@20")),
    ]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for label in next(iter(found.values()))["factors"]:
        cells = []
        for of in found.values():
            row = of["factors"][label]
            cells.append(f"{row['valid'][METRICS[0]]:.4f}")
            for metric in METRICS:
                cells.append(spread(row["test"][metric]))
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _table(head: str, found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Dataset -> row -> metric -> value as markdown, datasets side by side, the best mean recall first."""
    labels = dict.fromkeys(label for rows in found.values() for label in rows)
    everywhere = [rows for rows in found.values() if rows.keys() == labels.keys()] or list(found.values())

    def recall(label: str) -> float:
        return float(np.mean([rows[label][METRICS[0]] for rows in everywhere if label in rows]))

    heads = [head, *(f"{name}, {metric}" for name in found for metric in ("R@20", "N@20"))]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for label in sorted(labels, key=recall, reverse=True):
        cells = [
            f"{rows[label][metric]:.4f}" if label in rows else "-"
            for rows in found.values()
            for metric in METRICS
        ]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Prints and records the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", default=None, help="folder with the datasets")
    parser.add_argument("--store", type=Path, default=Path("cache"), help="the feature store")
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS), choices=DATASETS)
    parser.add_argument("--threads", type=int, help="torch threads")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    found = read_json(RESULT) if RESULT.exists() else {}
    for name, part in itertools.product(options.datasets, options.parts):
        measured = measured_part(part, name, options.root, options.store)
        new = found.setdefault(name, {})
        variants = {**new.get("variants", {}), **measured.pop("variants", {})}
        new.update(variants=variants, **measured)
        write_result(RESULT, {known: found[known] for known in DATASETS if known in found})
        print(f"{variants_table({name: new})}\n", flush=True)
        for made, shown in (("sums", sums_table), ("factors", factors_table)):
            if made in measured:
                print(f"{shown({name: new})}\n", flush=True)


if __name__ == "__main__":
    main()
