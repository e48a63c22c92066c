"""Amazon Baby with tuned options, on its published 8:1:1 split and with a tenth of the items cold.

``experiments.amazon_baby`` has the settings of the papers and the published rows; here every model gets eight
trials, chosen on validation at the first seed. A batch has 4,096 interactions, twice as many as in the
published runs: an epoch takes half the time, and the learning rate is tuned. The texts are those of
``experiments.amazon_baby``.

    python -m experiments.amazon_tuned                 # three seeds
    python -m experiments.amazon_tuned --quick         # one epoch, two trials, one seed
"""

from __future__ import annotations

import graphrec as gr
from experiments.content import text_features
from experiments.harness import Experiment, arguments, run
from experiments.rows import defaults, in_turn, shuffled

COMMAND = "python -m experiments.amazon_tuned"
TRAIN = gr.TrainConfig(
    batch_size=4096, epochs=400, validate_every=3, patience=10, patience_steps=0, checkpoint_every=30
)
NOT_YET = ("MF-BPR", "UltraGCN", "LayerGCN", "VBPR", "LATTICE", "BM3")
"""Models that are not tuned on this dataset yet: hours of training each."""
ROWS = [row for row in defaults(TRAIN) if row.label not in NOT_YET]
IN_TURN, PAIRS = in_turn(ROWS)
CHECKS = [row for row in shuffled(ROWS) if row.like == "ContentEASE"]


def main() -> None:
    """Runs the experiments."""
    options = arguments(__doc__ or "").parse_args()
    data = gr.load_dataset("amazon-baby", root=options.root)
    tables = text_features(data, options.store, options.quick)
    rows = [*ROWS, *CHECKS, *IN_TURN]
    pairs = [*PAIRS, *((str(row.like), row.label) for row in CHECKS)]
    warm = Experiment("amazon_baby_tuned", COMMAND, data, tables, rows, range(3), "LightGCN", 8, pairs)
    run(warm, options)
    cold = data.resplit("cold-items")
    run(
        Experiment(
            "amazon_baby_tuned_cold", COMMAND, cold, tables, [*ROWS, *IN_TURN], range(3), "LightGCN",
            pairs=PAIRS, tuned_as=warm,
        ),
        options,
    )  # fmt: skip


if __name__ == "__main__":
    main()
