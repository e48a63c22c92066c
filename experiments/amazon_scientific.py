"""Amazon Industrial & Scientific with its real CLIP image and text vectors.

Leave-one-out split; four grid points a model, chosen on validation at the first seed; five seeds.

    python -m experiments.amazon_scientific           # about a quarter of an hour on two cores
    python -m experiments.amazon_scientific --quick   # two minutes
"""

from __future__ import annotations

import graphrec as gr
from experiments.content import ready_features
from experiments.harness import Candidate, arguments, run

TRAIN = {"batch_size": 512, "epochs": 400}
FREEDOM_GRID = [{"dropout": d, "reg_weight": r} for d in (0.5, 0.8) for r in (1e-3, 1e-1)]

CANDIDATES = [
    Candidate("Popularity", "popularity"),
    Candidate("MF-BPR", "mf", [{"reg_weight": r} for r in (1e-3, 1e-2, 1e-1, 0.3)], TRAIN),
    Candidate("LightGCN", "lightgcn", [{"n_layers": n, "reg_weight": 1e-3} for n in (1, 2, 3, 4)], TRAIN),
    Candidate("FREEDOM (image)", "freedom", FREEDOM_GRID, TRAIN, ("image",)),
    Candidate("FREEDOM (text)", "freedom", FREEDOM_GRID, TRAIN, ("text",)),
    Candidate("FREEDOM", "freedom", FREEDOM_GRID, TRAIN),
]


def main() -> None:
    """Runs the experiment."""
    options = arguments(__doc__ or "").parse_args()
    data = gr.load_dataset("amazon-scientific", root=options.root)
    tables = ready_features(data, "amazon-scientific", options.root)
    run("amazon_scientific", data, tables, CANDIDATES, options, seeds=range(5), baseline="LightGCN")


if __name__ == "__main__":
    main()
