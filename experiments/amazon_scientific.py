"""Amazon Industrial & Scientific with its real CLIP image and text vectors, warm and with cold items.

The leave-one-out split as it is published, and a split that keeps a tenth of the items out of train. Eight
trials a model, chosen on validation at the first seed; five seeds; then what the content, each modality and
each part of FREEDOM is worth.

    python -m experiments.amazon_scientific           # five seeds
    python -m experiments.amazon_scientific --quick   # one epoch, two trials, one seed
"""

from __future__ import annotations

import graphrec as gr
from experiments.content import ready_features
from experiments.harness import Experiment, arguments, run
from experiments.rows import checks, defaults, in_turn

COMMAND = "python -m experiments.amazon_scientific"
TRAIN = gr.TrainConfig(batch_size=512, epochs=400, patience=30, checkpoint_every=20)
ROWS = defaults(TRAIN)
CHECKS, PAIRS = checks(ROWS)
IN_TURN, RIVALS = in_turn(ROWS)


def main() -> None:
    """Runs the experiments."""
    options = arguments(__doc__ or "").parse_args()
    data = gr.load_dataset("amazon-scientific", root=options.root)
    tables = ready_features(data, "amazon-scientific", options.root)
    rows = [*ROWS, *CHECKS, *IN_TURN]
    warm = Experiment(
        "amazon_scientific", COMMAND, data, tables, rows, range(5), "LightGCN", 8, PAIRS, RIVALS
    )
    run(warm, options)
    cold = data.resplit("cold-items")
    run(
        Experiment(
            "amazon_scientific_cold", COMMAND, cold, tables, [*ROWS, *IN_TURN], range(5), "LightGCN",
            rivals=RIVALS, tuned_as=warm,
        ),
        options,
    )  # fmt: skip


if __name__ == "__main__":
    main()
