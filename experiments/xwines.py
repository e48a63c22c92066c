"""X-Wines Slim: wines described by grape, body, region and food, of which 62 of 769 have a label photo.

Ratings of at least 4, 5-core; split 8:1:1 at random per user, and with a tenth of the wines kept out of
train. Photos through HOG+HSV, texts through a sentence encoder where one is installed. Eight trials a model,
chosen on validation at the first seed; five seeds; then what the content, each modality and each part of
FREEDOM is worth, and augmentation with attributes and profiles.

    python -m experiments.xwines             # five seeds
    python -m experiments.xwines --quick     # one epoch, two trials, one seed
"""

from __future__ import annotations

import graphrec as gr
from experiments import llm_augmentation
from experiments.content import extracted, text_encoder
from experiments.harness import Experiment, arguments, run
from experiments.rows import checks, defaults, in_turn

COMMAND = "python -m experiments.xwines"
TRAIN = gr.TrainConfig(batch_size=2048, epochs=400, patience=30, checkpoint_every=20)
ROWS = defaults(TRAIN)
CHECKS, PAIRS = checks(ROWS)
IN_TURN, RIVALS = in_turn(ROWS)
COLD = {"split": "cold-items"}
# Tuning LLMRec switches profiles and preferences off here; its best trial with both on, .0011 behind.
ON = {"profile_weight": 0.1, "augmented": 0.1, "prune": 0.0, "train.learning_rate": 3e-3}


def main() -> None:
    """Runs the experiments."""
    options = arguments(__doc__ or "").parse_args()
    data = gr.load_dataset("xwines", root=options.root)
    tables = extracted(data, options.store, image="hog-hsv", text=text_encoder(options.quick))
    rows = [*ROWS, *CHECKS, *IN_TURN]
    warm = Experiment("xwines", COMMAND, data, tables, rows, range(5), "LightGCN", 8, PAIRS, RIVALS)
    data, *rich = [
        gr.load_dataset("xwines", root=options.root, **more)
        for more in (COLD, {"attributes": True}, {"attributes": True, **COLD})
    ]
    rows = [*ROWS, *IN_TURN]
    cold = Experiment(
        "xwines_cold", COMMAND, data, tables, rows, range(5), "LightGCN", rivals=RIVALS, tuned_as=warm
    )
    for experiment in (warm, cold, *llm_augmentation.experiments(warm, cold, rich, options.store, ON)):
        run(experiment, options)


if __name__ == "__main__":
    main()
