"""Conversations about wines: type, grapes, body, acidity, country, region and food are what is asked about.

Nothing is published for this data; every policy stands beside all rules. Yes or no about one attribute, and
which of a group's.

    python -m experiments.xwines_conversations             # three seeds; one where which of a group's
    python -m experiments.xwines_conversations --quick     # one epoch, one seed, few pairs
"""

from __future__ import annotations

import graphrec as gr
from experiments.conversations import ConversationExperiment, Learned, arguments, run, scorer

COMMAND = "python -m experiments.xwines_conversations"
SHORT = {"epochs": 25}  # more is not needed: success on validation is at 98 % by epoch 6
LEARNED = (Learned("SCPR", train=SHORT), Learned("SCPR, posterior", {"belief": "posterior"}, SHORT))
FORMS = (
    ("xwines_conversations", {}, range(3)),
    ("xwines_conversations_enumerated", {"questions": "enumerated"}, range(1)),
)


def main() -> None:
    """Runs the experiments."""
    options = arguments(__doc__ or "").parse_args()
    data = gr.load_dataset("xwines", root=options.root, attributes=True)
    own = scorer(data, options.out, options.quick)
    for name, rules, seeds in FORMS:
        experiment = ConversationExperiment(
            name, COMMAND, data, own, "an FM trained here", LEARNED, seeds, rules=rules, picture=not rules
        )
        run(experiment, options)


if __name__ == "__main__":
    main()
