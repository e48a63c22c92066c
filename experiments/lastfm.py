"""Conversations on LastFM, with the vectors that SCPR's authors published and with an FM trained here.

The published rows (https://arxiv.org/abs/2007.00194) count the opening as a turn; both ways to count are in
the table.

    python -m experiments.lastfm             # three seeds; one with our own FM
    python -m experiments.lastfm --quick     # one epoch, one seed, few pairs
"""

from __future__ import annotations

from pathlib import Path

import graphrec as gr
from experiments.conversations import ConversationExperiment, Learned, arguments, run, scorer
from graphrec.data.readers import dataset_folder

COMMAND = "python -m experiments.lastfm"
PUBLISHED = {
    "abs-greedy": {"sr@15": 0.222, "at/opening": 13.48},
    "max-entropy": {"sr@15": 0.283, "at/opening": 13.91},
    "SCPR": {"sr@15": 0.465, "at/opening": 12.86},
}
LEARNED = (
    Learned("SCPR"),
    Learned("SCPR, posterior", {"belief": "posterior"}, {"schedule": "cosine"}),
)


def main() -> None:
    """Runs the experiments."""
    options = arguments(__doc__ or "").parse_args()
    data = gr.load_dataset("lastfm", root=options.root)
    published = Path(dataset_folder("lastfm", options.root)) / "fm_embeddings.npz"
    with_published_vectors = ConversationExperiment(
        "lastfm", COMMAND, data, published, "the authors'", LEARNED, range(3), PUBLISHED, picture=True
    )
    run(with_published_vectors, options)
    own = scorer(data, options.out, options.quick)
    run(
        ConversationExperiment("lastfm_own", COMMAND, data, own, "an FM trained here", LEARNED[:1], range(1)),
        options,
    )


if __name__ == "__main__":
    main()
