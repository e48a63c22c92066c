"""Held-out pairs change nothing that is learned, computed or asked before they are looked at.

Models: a check of the contract. Features, graphs and runs: the same pairs exchanged and removed. Language
models are in tests/cli/test_llm.py, studies in tests/test_tuning.py.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from histories import ADA, BOB, START, History
from history_encoder import MeanHistory
from PIL import Image
from trie_generator import Trie

from graphrec import runs, testing
from graphrec.conversation.models.scpr import SCPR
from graphrec.core.files import sha256_file
from graphrec.core.random import numpy_rng
from graphrec.data import Content, Dataset
from graphrec.data.git import read_histories
from graphrec.features import FeatureStore, FeatureTable
from graphrec.features.extract import extractor
from graphrec.features.extract.extraction import extract
from graphrec.graphs.graph import bipartite
from graphrec.graphs.knn import knn
from graphrec.models import MODELS, model
from graphrec.models.base import ModelConfig, Ranker
from graphrec.models.batches import triplets
from graphrec.models.lightgcn import LightGCN
from graphrec.models.losses import half_squares
from graphrec.models.mf import MF
from graphrec.models.popularity import Popularity
from graphrec.testing import leaks
from graphrec.testing.leaks import held_out_variants

CHECK = testing.CHECKS["learns_from_train_alone"]


# -- models that leak ----------------------------------------------------------------------------------------


def with_test(data: Dataset) -> Dataset:
    """The dataset with its test pairs in train."""
    none = data.test.where(np.zeros(len(data.test), dtype=bool))
    return data.with_splits(data.train + data.test, data.valid, none)


class LearnsTest(MF):
    @classmethod
    def build(cls, data, features=None, config=None):
        return super().build(with_test(data), features, config)


class LearnsTestOnTheGraph(LightGCN):
    @classmethod
    def build(cls, data, features=None, config=None):
        return super().build(with_test(data), features, config)


class HasTestEdges(LightGCN):
    @classmethod
    def build(cls, data, features=None, config=None):
        made = super().build(data, features, config)
        made.graph = bipartite(data.train + data.test)
        return made


class CountsValid(Popularity):
    @classmethod
    def build(cls, data, features=None, config=None):
        degree = (data.train + data.valid).item_degree
        return cls(data.n_users, torch.from_numpy(degree.copy()), config or cls.Config())


class KeepsData(MF):
    """What a subclass reads of the dataset it reads later."""

    @classmethod
    def build(cls, data, features=None, config=None):
        made = super().build(data, features, config)
        made.data = data
        return made

    @property
    def held_out(self) -> tuple[torch.Tensor, torch.Tensor]:
        pairs = self.data.valid
        return torch.from_numpy(pairs.users.astype(np.int64)), torch.from_numpy(pairs.items.astype(np.int64))


class ReadsTrainLater(KeepsData):
    """Keeps the dataset and reads of it what it may."""

    def batches(self, plan):
        return triplets(self.data.train, plan)


class ReadsInStartEpoch(KeepsData):
    def start_epoch(self, rng):
        with torch.no_grad():
            self.item_embedding.weight[self.held_out[1]] *= 1.1


class ReadsInBatches(KeepsData):
    def batches(self, plan):
        return triplets(self.data.train + self.data.test, plan)


class ReadsInLoss(KeepsData):
    def loss(self, batch):
        users, items = self.held_out
        pull = half_squares(self.user_embedding(users) - self.item_embedding(items)) if len(users) else 0
        return {**super().loss(batch), "pull": batch.users.new_zeros((), dtype=torch.float32) + pull}


class ReadsInEmbed(KeepsData):
    def embed(self):
        users, items = super().embed()
        bias = torch.from_numpy(self.data.test.item_degree.copy()).float()
        return users, items * (1 + bias[:, None])


class ReadsInScorer(KeepsData):
    def scorer(self):
        score = super().scorer()
        bias = torch.from_numpy(self.data.test.item_degree.copy()).float()
        return lambda query: score(query) + bias


class HasASparseBuffer(MF):
    @classmethod
    def build(cls, data, features=None, config=None):
        made = super().build(data, features, config)
        index = torch.from_numpy(np.stack([data.test.users, data.test.items]))
        matrix = torch.sparse_coo_tensor(index, torch.ones(len(data.test)), (data.n_users, data.n_items))
        made.register_buffer("hint", matrix, persistent=False)
        return made


class LooksAtTheClock(MF):
    """Knows when the test ends."""

    @classmethod
    def build(cls, data, features=None, config=None):
        made = super().build(data, features, config)
        times = (data.train + data.valid + data.test).times
        made.register_buffer("now", torch.tensor(int(times.max())))
        return made


class SeedsByFingerprint(MF):
    @classmethod
    def build(cls, data, features=None, config=None):
        made = super().build(data, features, config)
        noise = numpy_rng(0, data.fingerprint).normal(size=data.n_items)
        made.register_buffer("noise", torch.from_numpy(noise), persistent=False)
        return made


class RemembersValid(MeanHistory):
    """Answers known users by what they have in train and valid."""

    @classmethod
    def build(cls, data, features=None, config=None):
        made = super().build(data, features, config)
        made.train_pairs = data.train + data.valid
        made.batches = lambda plan: triplets(data.train, plan)
        return made


class TalksAboutTest(SCPR):
    @classmethod
    def build(cls, data, features=None, config=None):
        none = data.test.where(np.zeros(len(data.test), dtype=bool))
        return super().build(data.with_splits(data.train, data.valid + data.test, none), features, config)


class Oracle(Ranker):
    """Has learned nothing and knows what is held out."""

    @classmethod
    def build(cls, data, features=None, config=None):
        made = cls()
        made.config, made.n_users, made.n_items = config or ModelConfig(), data.n_users, data.n_items
        known = torch.zeros(data.n_users, data.n_items)
        for split in (data.valid, data.test):
            known[split.users.astype(np.int64), split.items.astype(np.int64)] = 1
        made.register_buffer("known", known)
        return made

    def embed(self):
        return self.known, torch.eye(self.n_items)


@pytest.mark.parametrize(
    ("leaky", "facts"),
    [
        (LearnsTest, ("batch 1.positives", "in the first epoch", "other")),
        (LearnsTestOnTheGraph, ("graph.col", "after build", "other")),
        (HasTestEdges, ("graph.col", "after build", "other")),
        (CountsValid, ("count", "after build", "other")),
        (ReadsInStartEpoch, ("item_embedding.weight", "after start_epoch", "other")),
        (ReadsInBatches, ("batch 1.positives", "in the first epoch", "other")),
        (ReadsInLoss, ("user_embedding.weight", "after training", "other")),
        (ReadsInEmbed, ("embeddings of items", "in the trained model", "other")),
        (ReadsInScorer, ("scores of users", "in the trained model", "other")),
        (HasASparseBuffer, ("hint", "after build", "other")),
        (LooksAtTheClock, ("now", "after build", "other")),
        (SeedsByFingerprint, ("noise", "after build", "other")),
        (RemembersValid, ("scores of users", "in the trained model", "other")),
        (Oracle, ("known", "after build", "other")),
    ],
)
def test_a_model_that_leaks_is_seen_and_the_tensor_named(leaky: Any, facts: tuple[str, ...]) -> None:
    with pytest.raises(AssertionError) as caught:
        CHECK(leaky, leaky.Config())
    for fact in facts:
        assert fact in str(caught.value)
    assert "user_embedding" not in str(caught.value).split("differ")[0] or leaky is ReadsInLoss


def test_a_model_of_validation_pairs_may_not_read_the_test_pairs() -> None:
    with pytest.raises(AssertionError, match=r"batch 1\.\w+.*other test pairs.*validation pairs"):
        CHECK(TalksAboutTest, TalksAboutTest.Config())


class ScoresAllTheSame(Oracle):
    """Knows nothing."""

    def embed(self):
        return torch.zeros(self.n_users, 1), torch.zeros(self.n_items, 1)


class DrawsFromGlobalState(MF):
    """Does not repeat, which is another check's to say."""

    def start_epoch(self, rng):
        with torch.no_grad():
            self.user_embedding.weight += 0.01 * torch.randn_like(self.user_embedding.weight)


@pytest.mark.parametrize("sound", [ReadsTrainLater, DrawsFromGlobalState, MeanHistory, Trie])
def test_a_model_that_does_not_leak_passes(sound: Any) -> None:
    state = torch.get_rng_state()
    CHECK(sound, sound.Config())
    assert torch.equal(torch.get_rng_state(), state)


def test_no_check_rewards_a_leak() -> None:
    """Neither for what ``build`` was given to test on, nor for scoring it no lower than everything else."""
    for name in ("learns_the_checkerboard", "beats_popularity"):
        for ignorant in (Oracle, ScoresAllTheSame):
            with pytest.raises(AssertionError):
                testing.CHECKS[name](ignorant, ModelConfig())


def test_check_model_names_the_tensor_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "CHECKS", {"learns_from_train_alone": CHECK})
    with pytest.raises(AssertionError, match=r"HasTestEdges fails 'learns_from_train_alone': graph\.\w+"):
        testing.check_model(HasTestEdges)


def test_the_exchanged_pairs_differ_in_users_items_and_times() -> None:
    data, _ = testing.communities(2, 20)
    own, other, no = held_out_variants(data).values()
    assert own.train == other.train == no.train
    assert own.train.keys.tolist() == data.train.keys.tolist()
    assert len({d.users.fingerprint + d.items.fingerprint for d in (data, own, other, no)}) == 1
    assert not len(no.valid) + len(no.test)
    for split in ("valid", "test"):
        one, two = getattr(own, split), getattr(other, split)
        assert len(one) != len(two)
        assert min(len(one), len(two)) > 10
        assert not set(one.users.tolist()) & set(two.users.tolist())
        assert not set(one.items.tolist()) & set(two.items.tolist())
        assert not set(one.times.tolist()) & set(two.times.tolist())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mf", {"n_negatives": 3, "local_negatives": 0.5}),
        ("lightgcn", {"fanouts": (3, 3)}),
        ("itemknn", {"normalize": True}),
        ("coder", {"session": 7.0, "cochange": 0.5, "identity": True, "local_negatives": 0.5}),
    ],
)
def test_options_that_add_what_is_computed_from_pairs_do_not_leak(name: str, options: dict) -> None:
    CHECK(model(name), model(name).Config(**options))


FILLING = [name for name in MODELS if "fill" in model(name).Config.model_fields]


@pytest.mark.parametrize("name", FILLING)
def test_missing_vectors_are_filled_from_train_pairs_alone(name: str, monkeypatch) -> None:
    """``communities`` lacks no content, so that some is removed."""

    @contextmanager
    def fixtures(model_class, config):
        data, features = testing.communities(2, 20)
        present = np.arange(data.n_items) % 4 > 0
        yield data, {f: FeatureTable(t.numpy(), present, t.meta) for f, t in features.items()}, config

    monkeypatch.setattr(leaks, "fixtures", fixtures)
    CHECK(model(name), model(name).Config(fill="neighbors"))


# -- features and graphs of content --------------------------------------------------------------------------


def with_content(data: Dataset, folder: Path) -> Dataset:
    """The dataset with texts, code and pictures."""
    words = ["red", "blue", "lamp", "chair", "wooden", "steel", "garden", "kitchen"]
    picks = numpy_rng(0, "test/leaks").integers(0, len(words), (data.n_items, 5))
    texts = [" ".join(words[w] for w in row) for row in picks]
    code = [f"def {a}_{b}(x):\n    return {c}(x)\n" for a, b, c in (text.split()[:3] for text in texts)]
    for i, row in enumerate(picks):
        Image.new("RGB", (8, 8), tuple(int(30 * v) for v in row[:3])).save(folder / f"{i}.png")
    return data.with_content(
        text=Content("text", texts),
        code=Content("text", code),
        image=Content("image", [f"{i}.png" for i in range(data.n_items)], folder),
    )


@pytest.mark.parametrize(
    ("field", "name", "options"),
    [
        ("text", "tfidf-svd", {"size": 6, "min_texts": 1}),
        ("code", "code-segments", {"segments": 2, "size": 4, "min_texts": 1}),
        ("image", "hog-hsv", {}),
    ],
)
def test_features_and_the_graphs_of_them_do_not_depend_on_held_out_pairs(
    field: str, name: str, options: dict, tmp_path: Path
) -> None:
    """Neither vectors nor what an extractor is fitted to. The contents are the same here; those of git
    histories depend on when the first held-out contribution was made, not on what it wrote (below).
    """
    data, _ = testing.communities(2, 20)
    files = {}
    for held_out, other in held_out_variants(with_content(data, tmp_path)).items():
        store = FeatureStore(tmp_path / held_out)
        table = extract(other, field, extractor(name, **options), store)
        knn(table, 5, cache=tmp_path / held_out / "graphs")
        arrays = sorted(path for path in (tmp_path / held_out).rglob("*.npy"))
        files[held_out] = {str(path.relative_to(tmp_path / held_out)): sha256_file(path) for path in arrays}
        assert any("graphs" in path for path in files[held_out])
        assert table.present.any()
    assert files["own"] == files["other"] == files["no"]


@pytest.mark.parametrize(
    "split",
    [
        {"name": "chronological", "valid": 0.2, "test": 0.2},
        {"name": "cut", "valid": START + 103, "test": START + 104},
    ],
)
def test_what_a_held_out_contribution_wrote_is_in_no_content(split: dict, tmp_path: Path) -> None:
    """Two histories that differ in what the held-out commits wrote. That they were made, and when, decides
    which contents are known: with a cut those before it, otherwise each file's before its first held-out
    contribution.
    """
    data = []
    for later in ("late", "else"):
        history = History(tmp_path / later / "proj.git")
        for i in range(5):
            history.commit({f"f{i}.py": f"by bob {i}"}, who=BOB, time=START + i)
        for i in range(5):
            wrote = later if i > 2 else "by ada"
            history.commit({f"f{i}.py": f"{wrote} {i}"}, who=ADA, time=START + 100 + i)
        history.commit({"f3.py": f"{later} again"}, who=ADA, time=START + 200)
        data.append(read_histories([history.write()], split=split))
    for each in data:
        assert len(each.valid) + len(each.test) > 1
        assert not any(word in str(each.content["code"].values) for word in ("late", "else"))
    one, other = data
    assert one.content["code"].values == other.content["code"].values
    assert one.fingerprint == other.fingerprint


# -- runs ----------------------------------------------------------------------------------------------------

OPTIONS = {"epochs": 3, "batch_size": 64, "learning_rate": 0.05, "device": "cpu", "progress": False}


def recorded(run: Path) -> tuple[list[dict[str, float]], dict[str, str]]:
    """Losses and metrics of every epoch, and the tensor files of the checkpoints."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in line.items() if not k.startswith("seconds")} for line in lines]
    files = [path for part in ("best", "last") for path in sorted((run / part).glob("*.safetensors"))]
    return kept, {path.parent.name + "/" + path.name: sha256_file(path) for path in files}


def test_a_run_and_its_repetition_use_train_and_valid_and_the_final_one_everything(tmp_path: Path) -> None:
    data, _ = testing.communities(2, 20)
    own, other, _ = held_out_variants(data).values()
    exchanged = own.with_splits(own.train, own.valid, other.test)
    for name, given in (
        ("own", own),
        ("exchanged", exchanged),
        ("valid", own.with_splits(own.train, other.valid, own.test)),
    ):
        runs.train("lightgcn", given, train_options=OPTIONS, model_options={"dim": 8}, out=tmp_path / name)
    assert recorded(tmp_path / "own") == recorded(tmp_path / "exchanged")
    losses = [
        [{k: v for k, v in line.items() if k.startswith("loss/")} for line in recorded(tmp_path / name)[0]]
        for name in ("own", "valid")
    ]
    assert losses[0] == losses[1], "what is learned does not depend on valid"
    assert recorded(tmp_path / "own")[0] != recorded(tmp_path / "valid")[0], (
        "and the choice of the epoch does"
    )
    runs.train_like(tmp_path / "exchanged", out=tmp_path / "again")
    assert recorded(tmp_path / "again") == recorded(tmp_path / "own")
    for name in ("own", "exchanged"):
        runs.fit_final(tmp_path / name, out=tmp_path / f"{name}-final")
    own_final, other_final = (runs.open_run(tmp_path / f"{name}-final") for name in ("own", "exchanged"))
    assert set(own_final.data.train.keys) == {*own.train.keys, *own.valid.keys, *own.test.keys}
    assert set(other_final.data.train.keys) == {*own.train.keys, *own.valid.keys, *other.test.keys}
    scores = [run.model.score(np.arange(5)) for run in (own_final, other_final)]
    assert not torch.equal(*scores), "a final run learns from what was held out to test"
