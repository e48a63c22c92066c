"""Amazon Baby on its published 8:1:1 split: MF-BPR and LightGCN on their published rows, FREEDOM on the
titles at hand.

The image and text vectors behind the published FREEDOM row cannot be had; here FREEDOM sees the titles (and
where there are any, descriptions) of 3,416 of the 7,050 items through a sentence encoder, so its row is not
comparable with the published one and stands beside LightGCN instead.

    python -m experiments.amazon_baby                 # three seeds
    python -m experiments.amazon_baby --quick         # three epochs, one seed
"""

from __future__ import annotations

import graphrec as gr
from experiments.content import text_features
from experiments.harness import Candidate, arguments, run

PUBLISHED = {
    "MF-BPR": {"recall@10": 0.0357, "recall@20": 0.0575, "ndcg@10": 0.0192, "ndcg@20": 0.0249},
    "LightGCN": {"recall@10": 0.0479, "recall@20": 0.0754, "ndcg@10": 0.0257, "ndcg@20": 0.0328},
}
"""From the table in the FREEDOM paper (https://arxiv.org/abs/2211.06924)."""

CANDIDATES = [
    Candidate("Popularity", "popularity"),
    Candidate("MF-BPR", "mf", [{"reg_weight": 0.1}]),
    Candidate("LightGCN", "lightgcn", [{"n_layers": 2, "reg_weight": 1e-3}]),
    Candidate("FREEDOM (text)", "freedom", [{"dropout": 0.8, "reg_weight": 1e-3}]),
]


def main() -> None:
    """Runs the experiment."""
    options = arguments(__doc__ or "").parse_args()
    data = gr.load_dataset("amazon-baby", root=options.root)
    run(
        "amazon_baby", data, text_features(data, options.store), CANDIDATES, options,
        seeds=(0, 1, 2), baseline="LightGCN", published=PUBLISHED,
    )  # fmt: skip


if __name__ == "__main__":
    main()
