"""MovieLens small: posters and film texts through the framework's own extractors, warm and with cold films.

Ratings of at least 4, 5-core; split 8:1:1 at random per user, and with a tenth of the films kept out of
train. Posters through HOG+HSV (no pretrained weights needed), texts through a sentence encoder where one is
installed. Eight trials a model, chosen on validation at the first seed; five seeds; then what the content,
each modality and each part of FREEDOM is worth, and augmentation with attributes and profiles.

    python -m experiments.movielens_small             # five seeds
    python -m experiments.movielens_small --quick     # one epoch, two trials, one seed
"""

from __future__ import annotations

import graphrec as gr
from experiments import llm_augmentation
from experiments.content import extracted, text_encoder
from experiments.harness import Experiment, arguments, run
from experiments.rows import checks, defaults, in_turn

COMMAND = "python -m experiments.movielens_small"
TRAIN = gr.TrainConfig(batch_size=1024, epochs=400, patience=30, checkpoint_every=20)
ROWS = defaults(TRAIN)
CHECKS, PAIRS = checks(ROWS)
IN_TURN, RIVALS = in_turn(ROWS)
COLD = {"split": "cold-items"}


def main() -> None:
    """Runs the experiments."""
    options = arguments(__doc__ or "").parse_args()
    data = gr.load_dataset("movielens-small", root=options.root)
    tables = extracted(data, options.store, image="hog-hsv", text=text_encoder(options.quick))
    rows = [*ROWS, *CHECKS, *IN_TURN]
    warm = Experiment("movielens_small", COMMAND, data, tables, rows, range(5), "LightGCN", 8, PAIRS, RIVALS)
    data, *rich = [
        gr.load_dataset("movielens-small", root=options.root, **more)
        for more in (COLD, {"attributes": True}, {"attributes": True, **COLD})
    ]
    rows = [*ROWS, *IN_TURN]
    cold = Experiment(
        "movielens_small_cold",
        COMMAND,
        data,
        tables,
        rows,
        range(5),
        "LightGCN",
        rivals=RIVALS,
        tuned_as=warm,
    )
    for experiment in (warm, cold, *llm_augmentation.experiments(warm, cold, rich, options.store)):
        run(experiment, options)


if __name__ == "__main__":
    main()
