"""Amazon Sports on its published 8:1:1 split: MF-BPR and LightGCN on their published rows, one seed.

python -m experiments.amazon_sports               # one seed
python -m experiments.amazon_sports --quick       # three epochs, one seed
"""

from __future__ import annotations

import graphrec as gr
from experiments.harness import Candidate, arguments, run

PUBLISHED = {
    "MF-BPR": {"recall@10": 0.0432, "recall@20": 0.0653, "ndcg@10": 0.0241, "ndcg@20": 0.0298},
    "LightGCN": {"recall@10": 0.0569, "recall@20": 0.0864, "ndcg@10": 0.0311, "ndcg@20": 0.0387},
}
"""From the table in the FREEDOM paper (https://arxiv.org/abs/2211.06924)."""

CANDIDATES = [
    Candidate("Popularity", "popularity"),
    Candidate("MF-BPR", "mf", [{"reg_weight": 0.1}]),
    Candidate("LightGCN", "lightgcn", [{"n_layers": n, "reg_weight": 1e-3} for n in (2, 3, 4)]),
]


def main() -> None:
    """Runs the experiment."""
    options = arguments(__doc__ or "").parse_args()
    data = gr.load_dataset("amazon-sports", root=options.root)
    run("amazon_sports", data, {}, CANDIDATES, options, seeds=(0,), baseline="LightGCN", published=PUBLISHED)


if __name__ == "__main__":
    main()
