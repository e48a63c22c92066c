"""Conversations about wines: type, grapes, body, acidity, country, region and food are what is asked about.

Nothing is published for this data; every policy stands beside all rules. Yes or no about one attribute, and
which of a group's.

    python -m experiments.xwines_talks             # three seeds
    python -m experiments.xwines_talks --quick     # one epoch, one seed, few pairs
"""

from __future__ import annotations

import graphrec as gr
from experiments.talks import Learned, Talks, arguments, run, scorer

COMMAND = "python -m experiments.xwines_talks"
LEARNED = (Learned("SCPR"), Learned("SCPR, posterior", {"belief": "posterior"}))
FORMS = {"xwines_talks": {}, "xwines_talks_enumerated": {"questions": "enumerated"}}


def main() -> None:
    """Runs the experiments."""
    options = arguments(__doc__ or "").parse_args()
    data = gr.load_dataset("xwines", root=options.root, attributes=True)
    own = scorer(data, options.out, options.quick)
    for name, rules in FORMS.items():
        talks = Talks(name, COMMAND, data, own, "an FM trained here", LEARNED, range(3), rules=rules)
        run(talks, options)


if __name__ == "__main__":
    main()
