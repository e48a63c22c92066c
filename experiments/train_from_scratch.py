"""LightGCN and FREEDOM in one plain file: our graphs and batches, but no Trainer, model class or registry.

It reads from top to bottom. With the same seed, the losses are those of the Trainer (a test compares them).

    python -m experiments.train_from_scratch                       # both models on a generated shop
    python -m experiments.train_from_scratch --data saved/shop     # on a dataset that you saved
"""

import argparse
import tempfile

import numpy as np
import torch
from torch.nn.functional import logsigmoid

import graphrec as gr
from graphrec.core.random import numpy_rng, torch_rng
from graphrec.data.generated import generated_options, write_catalog
from graphrec.graphs.graph import bipartite, degree_probability, mix, normalize_weights, sample_edges
from graphrec.graphs.knn import knn
from graphrec.models.batches import EpochContext, triplets

DIM, LAYERS, NEIGHBORS, SEED = 64, 2, 10, 0
PRUNED, IMAGE_WEIGHT = 0.8, 0.1  # FREEDOM: share of edges dropped in each epoch, weight of the image graph
REG_WEIGHT = 1e-3  # LightGCN: of the embedding norms; FREEDOM: of the feature loss
BATCH_SIZE, LEARNING_RATE = 512, 0.01


def xavier(rows: int, columns: int, purpose: str) -> torch.nn.Parameter:
    """A parameter ``(rows, columns)`` whose initial values depend on the seed and the purpose."""
    weight = torch.empty(rows, columns)
    torch.nn.init.xavier_uniform_(weight, generator=torch_rng(SEED, f"init/{purpose}"))
    return torch.nn.Parameter(weight)


def bpr(difference: torch.Tensor) -> torch.Tensor:
    """Bayesian personalized ranking: the positive item should score higher than the negative one."""
    return -logsigmoid(difference).mean()


def train(data: gr.Dataset, name: str, epochs: int, features: dict | None = None) -> tuple[list[float], dict]:
    """Trains a model; returns the mean loss of every epoch, and the test metrics."""
    n_users, n_items = data.n_users, data.n_items
    users, items = xavier(n_users, DIM, "users"), xavier(n_items, DIM, "items")  # (n, d)
    parameters = [users, items]
    full_graph = graph = bipartite(data.train)  # (n_users + n_items) nodes, edges weigh 1 / sqrt(d_u d_i)

    if name == "freedom":
        # One graph of the nearest items per modality, frozen; the mixture is the item graph.
        neighbors = {
            m: normalize_weights(knn(table, NEIGHBORS), "symmetric") for m, table in features.items()
        }
        shares = {"image": IMAGE_WEIGHT, "text": 1 - IMAGE_WEIGHT}
        item_graph = mix([(shares[m], neighbors[m]) for m in neighbors])
        vectors = {
            m: torch.from_numpy(table.numpy()).float() for m, table in features.items()
        }  # (n_items, d_m)
        present = {m: torch.from_numpy(np.array(table.present)) for m, table in features.items()}
        maps = {m: xavier(DIM, x.shape[1], m) for m, x in vectors.items()}
        parameters += maps.values()
        probability = degree_probability(data.train)  # popular users and items are pruned more often

    def embed(graph: gr.Graph) -> tuple[torch.Tensor, torch.Tensor]:
        """LightGCN: the mean of all layers x, Ax, AAx. FREEDOM adds what items get from similar items."""
        layers = [torch.cat([users, items])]
        for _ in range(LAYERS):
            layers.append(graph @ layers[-1])
        mean = torch.stack(layers).mean(0)
        u, i = mean[:n_users], mean[n_users:]
        return (u, i + item_graph @ items) if name == "freedom" else (u, i)

    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    losses = []
    for epoch in range(1, epochs + 1):
        if name == "freedom":
            kept = int(len(data.train) * (1 - PRUNED))
            mask = sample_edges(probability, kept, numpy_rng(SEED, "start_epoch", epoch))
            graph = bipartite(data.train.where(mask))
        steps = []
        for u, p, n in triplets(data.train, EpochContext(epoch, BATCH_SIZE, SEED)):
            all_users, all_items = embed(graph)
            user, difference = all_users[u], all_items[p] - all_items[n]  # (B, d)
            loss = bpr((user * difference).sum(1))
            if name == "lightgcn":
                norms = users[u].norm() + items[p].norm() + items[n].norm()
                loss = loss + REG_WEIGHT * norms / len(u)
            else:  # the projected features alone should rank the positive item first
                for m, x in vectors.items():
                    both = present[m][p] & present[m][n]
                    scores = (user * ((x[p] - x[n]) @ maps[m].T)).sum(1)
                    if both.any():
                        loss = loss + REG_WEIGHT * bpr(scores[both])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps.append(loss.item())
        losses.append(sum(steps) / len(steps))

    # Rank all items that the user does not have in train or valid.
    with torch.no_grad():
        all_users, all_items = embed(full_graph)
    scores = (all_users @ all_items.T).numpy()
    for part in (data.train, data.valid):
        scores[part.users, part.items] = -np.inf
    top = np.argsort(-scores, axis=1, kind="stable")[:, :20]  # (n_users, 20)
    recall, ndcg = [], []
    for user in np.unique(data.test.users):
        relevant = data.test.items[data.test.users == user]
        hits = np.isin(top[user], relevant)
        discount = 1 / np.log2(np.arange(2, 22))
        recall.append(hits.sum() / len(relevant))
        ndcg.append((hits * discount).sum() / discount[: len(relevant)].sum())
    return losses, {"recall@20": float(np.mean(recall)), "ndcg@20": float(np.mean(ndcg))}


def main() -> None:
    """Trains both models and prints their test metrics."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="a saved dataset; default: a generated shop")
    parser.add_argument("--model", choices=("lightgcn", "freedom"), help="default: both")
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.data:
            data = gr.load_dataset(options.data)
        else:
            shop = write_catalog(f"{folder}/shop", n_items=300, n_users=600)
            data = gr.load_dataset("table", shop, **{**generated_options(), "split": "random"})
        store = gr.FeatureStore(f"{folder}/cache")
        for name in [options.model] if options.model else ["lightgcn", "freedom"]:
            if name == "freedom":
                gr.extract(data, "image", gr.extractor("hog-hsv"), store)
                gr.extract(data, "text", gr.extractor("tfidf-svd"), store)
            features = store.load_tables(data) if name == "freedom" else None
            losses, metrics = train(data, name, options.epochs, features)
            print(f"{name:<10} loss {losses[0]:.4f} -> {losses[-1]:.4f}   {metrics}")


if __name__ == "__main__":
    main()
