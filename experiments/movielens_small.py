"""MovieLens small: posters and film texts through the framework's own extractors, warm and cold films.

Ratings of at least 4, 5-core; a tenth of the films held out of training entirely, the rest split at random
per user. Posters through HOG+HSV (no pretrained weights needed), texts through a sentence encoder where one
is installed. Four grid points a model, chosen on validation at the first seed; five seeds.

    python -m experiments.movielens_small             # about half an hour on two cores
    python -m experiments.movielens_small --quick     # two minutes
"""

from __future__ import annotations

import graphrec as gr
from experiments.content import extracted, text_encoder
from experiments.harness import Candidate, arguments, run

TRAIN = {"batch_size": 1024, "epochs": 400}
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
    data = gr.load_dataset("movielens-small", root=options.root, split="cold-items")
    tables = extracted(data, options.store, image="hog-hsv", text=text_encoder())
    run("movielens_small", data, tables, CANDIDATES, options, seeds=range(5), baseline="LightGCN", cold=True)


if __name__ == "__main__":
    main()
