"""Simulated conversations per processor second, and an epoch of SCPR's training, on the LastFM data of its
paper or on generated data of the same size.

    GRAPHREC_DATA=DIR python -m experiments.bench.dialogues [--pairs 2000]

One thread. The floor of a policy is the time of its two products alone, vectors of candidates times a vector
and weights times the table of attributes, replayed in the sizes that the conversations had. The floor of an
update is the multiplications of its products over the measured rate of a product of matrices.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from experiments.bench import measure
from experiments.bench.fm_epoch import generated
from graphrec.conversation.belief import Setting
from graphrec.conversation.catalog import Catalog
from graphrec.conversation.config import ConversationConfig
from graphrec.conversation.models.scpr import SCPR
from graphrec.conversation.play import play
from graphrec.conversation.rules import parse_rule
from graphrec.conversation.simulator import Simulator
from graphrec.conversation.vectors import DialogueVectors, read_vectors, write_vectors
from graphrec.core.random import numpy_rng
from graphrec.data import Dataset
from graphrec.data.readers import dataset_folder, load_dataset
from graphrec.models.batches import EpochContext
from graphrec.models.train_config import TrainConfig
from graphrec.training.trainer import Trainer

POLICIES = (
    ("abs-greedy", {"weighting": "plain"}),
    ("max-entropy", {"weighting": "plain"}),
    ("max-entropy", {}),
    ("recommend-when-sure:30", {"belief": "posterior"}),
    ("recommend-when-sure:30", {"belief": "posterior", "error": 0.1}),
)
REFERENCE = {"abs-greedy": 34, "max-entropy": 29}  # per CPU second, LastFM, weighted; measured once elsewhere
EPISODES = 160


def data_and_vectors(folder: Path) -> tuple[Dataset, DialogueVectors, Path]:
    """LastFM with the authors' vectors where they are, else generated data with random ones."""
    root = os.environ.get("GRAPHREC_DATA")
    path = Path(dataset_folder("lastfm", root)) / "fm_embeddings.npz"
    if root and path.exists():
        data = load_dataset("lastfm", root)
        return data, read_vectors(path, data), path
    data, rng = generated(33, 30_290), numpy_rng(0, "bench/vectors")
    sizes = (data.n_users, data.n_items, 33)
    vectors = DialogueVectors(*(rng.normal(0, 0.2, (n, 64)).astype(np.float32) for n in sizes))
    return data, vectors, write_vectors(folder / "vectors", vectors)


class Traced(Setting):
    """Notes how many candidates there are whenever they are scored or questions are valued."""

    def __init__(self, *given: object) -> None:
        super().__init__(*given)  # type: ignore[arg-type]
        self.scored: list[int] = []
        self.valued: list[int] = []

    def block(self, attribute: int) -> tuple[np.ndarray, np.ndarray | None]:
        """See :class:`Setting`."""
        found = super().block(attribute)
        self.scored.append(len(found[0]))
        return found

    def entropy(self, probability: np.ndarray) -> np.ndarray:
        """See :class:`Setting`."""
        self.valued.append(self.left)
        return super().entropy(probability)

    left = 0


def floor(setting: Setting, scored: list[int], valued: list[int]) -> float:
    """Seconds of the two products alone, in the given sizes."""
    vectors, table = setting.vectors.items, setting.catalog.table
    assert table is not None
    one, weights = vectors[0].copy(), np.ones(len(vectors), np.float32)
    began = time.process_time()
    for n in scored:
        vectors[:n] @ one
    for n in valued:
        weights[:n] @ table[:n]
    return time.process_time() - began


def conversations(data: Dataset, vectors: DialogueVectors, n: int) -> None:
    """Prints a line per policy."""
    chosen = np.sort(numpy_rng(0, "bench/pairs").permutation(len(data.test))[:n])
    users, targets = data.test.users[chosen], data.test.items[chosen]
    catalog = Catalog.from_dataset(data)
    print(f"{'policy':26s}{'rules':28s}{'per CPU s':>10s}{'reference':>11s}{'ratio':>7s}{'products':>10s}")
    for name, rules in POLICIES:
        setting = Setting(catalog, vectors, ConversationConfig(**rules))
        play(parse_rule(name), setting, Simulator(catalog), users[:64], targets[:64])
        began = time.process_time()
        play(parse_rule(name), setting, Simulator(catalog), users, targets)
        spent = time.process_time() - began
        scored, valued = _sizes(catalog, vectors, rules, name, users, targets)
        reference = REFERENCE.get(name)
        known = (f"{reference}", f"{len(users) / spent / reference:.0f}x") if reference else ("", "")
        share = floor(setting, scored, valued) / spent
        words = ", ".join(f"{k} {v}" for k, v in rules.items()) or "weighted"
        print(f"{name:26s}{words:28s}{len(users) / spent:>10,.0f}{known[0]:>11s}{known[1]:>7s}{share:>10.0%}")


def _sizes(
    catalog: Catalog, vectors: DialogueVectors, rules: dict[str, object], name: str,
    users: np.ndarray, targets: np.ndarray,
) -> tuple[list[int], list[int]]:  # fmt: skip
    """How many candidates there were at each product of the same conversations."""
    from graphrec.conversation.dialogue import Dialogue

    traced = Traced(catalog, vectors, ConversationConfig(**rules))
    talks = Simulator(catalog).users(targets, 15)
    uniform = numpy_rng(0, "conversation/policy").random((len(targets), 15))
    for number, talk in enumerate(talks):
        dialogue = Dialogue(traced, int(users[number]), talk)
        while not dialogue.done and dialogue.actions_left:
            traced.left = len(dialogue.belief.items)
            action = parse_rule(name).act([dialogue], uniform[number, dialogue.turn : dialogue.turn + 1])[0]
            dialogue.step(action)
    return traced.scored, traced.valued


def training(data: Dataset, scorer: Path) -> None:
    """Prints what an epoch of SCPR takes, playing and learning."""
    config = SCPR.Config(scorer=scorer, episodes=EPISODES)
    model = SCPR.build(data, None, config)
    Trainer(TrainConfig(epochs=1, batch_size=128, learning_rate=1e-2, progress=False)).fit(model)
    began = time.process_time()
    updates = sum(1 for _ in model.batches(EpochContext(2, 128, 0)))
    playing = time.process_time() - began
    began = time.process_time()
    Trainer(TrainConfig(epochs=1, batch_size=128, learning_rate=1e-2, progress=False)).fit(model)
    whole = time.process_time() - began
    s, hidden = 35, config.hidden
    multiplications = 128 * (s * hidden * 3 + hidden * 2 * 4)  # two forward passes, one backward
    a = torch.randn(512, 512)
    rate = 512**3 / (measure.milliseconds(lambda: a @ a) / 1e3)
    least = multiplications / rate
    update = 1e3 * (whole - playing) / updates
    print(
        f"\nSCPR: {EPISODES} conversations with {updates:,} updates take {whole:.1f} CPU s, "
        f"{playing:.1f} of them playing\n"
        f"an update {update:.2f} ms, its products alone {1e3 * least:.2f} ms; 50,000 conversations "
        f"would take {whole * 50_000 / EPISODES / 60:.1f} minutes"
    )


def main() -> None:
    """Prints conversations per second and an epoch of training."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=2000, help="conversations per policy")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(measure.machine())
    with tempfile.TemporaryDirectory() as folder:
        data, vectors, scorer = data_and_vectors(Path(folder))
        print(f"{data.name}: {data.n_users:,} users, {data.n_items:,} items\n")
        conversations(data, vectors, given.pairs)
        training(data, scorer)


if __name__ == "__main__":
    main()
