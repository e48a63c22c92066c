"""Amazon Industrial & Scientific with its real CLIP image and text vectors.

Leave-one-out split; four grid points a model, chosen on validation at the first seed; five seeds.

    python -m experiments.amazon_scientific           # five seeds
    python -m experiments.amazon_scientific --quick   # three epochs, one seed
"""

from __future__ import annotations

import graphrec as gr
from experiments.candidates import multimodal
from experiments.content import ready_features
from experiments.harness import arguments, run

# Few steps an epoch: at the default rate LightGCN rests on a plateau for longer than the default patience.
TRAIN = {"batch_size": 512, "epochs": 400, "learning_rate": 5e-3, "patience": 30}
CANDIDATES = multimodal(TRAIN)


def main() -> None:
    """Runs the experiment."""
    options = arguments(__doc__ or "").parse_args()
    data = gr.load_dataset("amazon-scientific", root=options.root)
    tables = ready_features(data, "amazon-scientific", options.root)
    run("amazon_scientific", data, tables, CANDIDATES, options, seeds=range(5), baseline="LightGCN")


if __name__ == "__main__":
    main()
