"""Amazon Baby on its published 8:1:1 split, every model at the settings its paper or the toolbox behind the
published table reports as best (where they report none, at the defaults); and with cold items. Models in
closed form, for which nothing is reported, are tuned on validation at the first seed; so are the trained
models, in rows of their own.

MF-BPR and LightGCN see what the published runs saw and must land on their rows. The image and text vectors
behind the other rows cannot be had; here the multimodal models see the titles (and where there are any,
descriptions) of 3,416 of the 7,050 items through a sentence encoder, so their rows are not comparable with
the published ones and stand beside LightGCN instead.

    python -m experiments.amazon_baby                 # three seeds; checks one
    python -m experiments.amazon_baby --quick         # one epoch, one seed
"""

from __future__ import annotations

import graphrec as gr
from experiments.content import text_features
from experiments.harness import Experiment, arguments, run
from experiments.rows import checks, in_turn, settled, tuned

PUBLISHED = {
    "MF-BPR": {"recall@10": 0.0357, "recall@20": 0.0575, "ndcg@10": 0.0192, "ndcg@20": 0.0249},
    "LightGCN": {"recall@10": 0.0479, "recall@20": 0.0754, "ndcg@10": 0.0257, "ndcg@20": 0.0328},
}
"""From the table in the FREEDOM paper (https://arxiv.org/abs/2211.06924)."""
COMMAND = "python -m experiments.amazon_baby"
TRAIN = gr.TrainConfig(checkpoint_every=10)
ROWS = settled(
    TRAIN,
    mf=gr.models.MF.Config(reg_weight=0.1),
    lightgcn=gr.models.LightGCN.Config(n_layers=2, reg_weight=1e-3),
    bm3=gr.models.BM3.Config(n_layers=1, dropout=0.5, reg_weight=0.1),
    freedom=gr.models.FREEDOM.Config(dropout=0.8, reg_weight=1e-3),
)
CHECKS, PAIRS = checks(ROWS, both=False)
TUNED = tuned(ROWS)
IN_TURN, RIVALS = in_turn([*ROWS, *TUNED])
_, COLD_RIVALS = in_turn(ROWS)


def main() -> None:
    """Runs the experiments."""
    options = arguments(__doc__ or "").parse_args()
    data = gr.load_dataset("amazon-baby", root=options.root)
    tables = text_features(data, options.store, options.quick)
    rows = [*ROWS, *TUNED, *CHECKS, *IN_TURN]
    warm = Experiment(
        "amazon_baby", COMMAND, data, tables, rows, range(3), "LightGCN",
        pairs=PAIRS, rivals=RIVALS, published=PUBLISHED, checked=1,
    )  # fmt: skip
    run(warm, options)
    cold = data.resplit("cold-items")
    run(
        Experiment(
            "amazon_baby_cold", COMMAND, cold, tables, [*ROWS, *IN_TURN], range(3), "LightGCN",
            rivals=COLD_RIVALS, tuned_as=warm,
        ),
        options,
    )  # fmt: skip


if __name__ == "__main__":
    main()
