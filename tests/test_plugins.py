"""Models, losses, readers and extractors from one file: of a package, or registered by one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from graphrec import models, testing
from graphrec.core.errors import ConfigError
from graphrec.data.readers import READERS, load_dataset
from graphrec.features.extract import EXTRACTORS, extractor

MODEL = '''"""Shy popularity: the inverse of what most users took."""

from graphrec.models.base import ModelConfig, Ranker


class Shy(Ranker):
    """Scores an item by how few took it."""

    class Config(ModelConfig):
        """No options of its own."""

    name = "shy"
    personalized = False

    @classmethod
    def build(cls, data, features=None, config=None):
        import torch

        model = cls()
        model.config, model.n_users, model.n_items = config or cls.Config(), data.n_users, data.n_items
        model.register_buffer("count", torch.from_numpy(1.0 / (1 + data.train.item_degree)).float())
        return model

    def embed(self):
        return self.count.new_ones(self.n_users, 1), self.count[:, None]
'''
READER = '''"""A ring of users, made up; https://example.org/ring."""

import numpy as np

from graphrec.testing import dataset


def read(folder, *, size: int = 12):
    """A ring: every user takes the two items beside them."""
    users = np.repeat(np.arange(size), 2)
    items = (users + np.tile([0, 1], size)) % size
    return dataset(np.stack([users, items], 1), [], size, size, "ring")
'''
EXTRACTOR = '''"""Lengths of texts."""

import numpy as np


class Lengths:
    """How long a text is, and how many words it has."""

    name, kind, dim = "lengths", "text", 2

    def __init__(self, scale: float = 1.0):
        self.scale = scale

    def describe(self):
        return {"name": self.name, "scale": self.scale}

    def encode(self, batch):
        return np.array([[len(t), len(t.split())] for t in batch], np.float32) * self.scale
'''

LOSS = '''"""A loss of one's own, and matrix factorization trained with it."""

from dataclasses import dataclass

from graphrec.core import distributed
from graphrec.models.losses import embedding_norms, score_difference
from graphrec.models.mf import MF


@dataclass(frozen=True)
class SquaredHinge:
    """Mean of ``max(0, margin - (s+ - s-))**2``."""

    margin: float = 1.0

    def __call__(self, difference):
        return distributed.global_mean((self.margin - difference).clamp(min=0) ** 2)


class HingeMF(MF):
    """Matrix factorization, trained with the squared hinge loss."""

    name = "hinge-mf"
    criterion = SquaredHinge(3.0)

    def loss(self, batch):
        users = self.user_embedding(batch.users)
        positives = self.item_embedding(batch.positives)
        negatives = self.item_embedding(batch.negatives)
        return {
            "hinge": self.criterion(score_difference(users, positives, negatives)),
            "reg": self.config.reg_weight * embedding_norms(users, positives, negatives),
        }
'''


def install(folder: Path, package: str, points: str, **modules: str) -> None:
    """Lays a package out as pip does: modules, and a dist-info folder with entry points."""
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(source)
    info = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)


def warned(answer) -> list[str]:
    """The lines that warn."""
    return [line for line in answer.err.splitlines() if line.startswith("warning:")]


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    """An empty folder on ``sys.path``."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_a_model_of_a_package_is_listed_trained_and_checked(site, tmp_path, graphrec) -> None:
    install(site, "shy-models", "[graphrec.models]\nshy = shy_model:Shy\n", shy_model=MODEL)
    listed = graphrec("models")
    line = next(line for line in listed.out.splitlines() if line.startswith("shy "))
    assert "embeddings" in line
    assert "shy-models 1.0" in line
    assert warned(listed) == []
    assert "Shy popularity" in graphrec("models", "shy").out
    assert any(line.startswith("shy") for line in graphrec("train", "--list").out.splitlines())
    testing.check_model(models.model("Shy"))
    testing.dataset([(u, (u + d) % 12) for u in range(12) for d in range(4)], [], 12, 12, "d").save(
        tmp_path / "data"
    )
    trained = graphrec("train", "shy", tmp_path / "data", "--out", tmp_path / "run", "--select", "none")
    assert trained.code == 0, trained.err
    answer = graphrec("recommend", tmp_path / "run", "--user", "u0")
    assert answer.code == 0, answer.err


def test_a_broken_package_is_one_warning_and_breaks_no_other(site, graphrec) -> None:
    install(site, "shy-models", "[graphrec.models]\nshy = shy_model:Shy\n", shy_model=MODEL)
    points = "[graphrec.models]\nbad = bad_model:Bad\nother = shy_model:Shy\nnone = shy_model:Missing\n"
    install(site, "bad-models", points, bad_model="import no_such_library\n")
    listed = graphrec("models")
    assert listed.code == 0
    names = {line.split()[0] for line in listed.out.splitlines() if line.strip()}
    assert {"shy", "lightgcn"} <= names
    assert not {"bad", "other", "none"} & names
    warnings = warned(listed)
    assert len(warnings) == 3
    for name, fact in (("bad", "no_such_library"), ("other", "'shy'"), ("none", "Missing")):
        line = next(line for line in warnings if f"'{name}'" in line)
        assert "bad-models 1.0" in line
        assert fact in line
    refused = graphrec("train", "bad", "somewhere")
    assert refused.code == 2
    assert "bad-models 1.0" in refused.err
    assert "no_such_library" in refused.err


def test_a_name_that_is_taken_is_refused_naming_both(site, graphrec) -> None:
    install(site, "one", "[graphrec.models]\nshy = shy_model:Shy\nMF = shy_model:Shy\n", shy_model=MODEL)
    install(site, "two", "[graphrec.models]\nshy = other_shy:Shy\n", other_shy=MODEL)
    listed = graphrec("models")
    assert not any(line.startswith("shy ") for line in listed.out.splitlines())
    warnings = warned(listed)
    assert len(warnings) == 2
    both = next(line for line in warnings if "'shy'" in line)
    assert "one 1.0" in both
    assert "two 1.0" in both
    builtin = next(line for line in warnings if "'mf'" in line)
    assert "one 1.0" in builtin
    assert "graphrec.models.mf:MF" in builtin
    with pytest.raises(ConfigError, match=r"one 1\.0 and two 1\.0"):
        models.model("shy")
    assert models.model("mf") is models.MF, "an installed package does not change what a name means"


def test_a_reader_and_an_extractor_of_a_package(site, tmp_path, graphrec) -> None:
    points = "[graphrec.readers]\nring = ring:read\n\n[graphrec.extractors]\nlengths = lengths:Lengths\n"
    install(site, "more", points, ring=READER, lengths=EXTRACTOR)
    assert "A ring" in graphrec("data", "list").out
    assert load_dataset("ring", size=8).n_users == 8
    with pytest.raises(ConfigError, match="'sizes'"):
        load_dataset("ring", sizes=8)
    assert "lengths" in graphrec("features", "list").out
    assert extractor("lengths", scale=2.0).encode(["a b c"]).tolist() == [[10.0, 6.0]]
    shown = graphrec("data", "show", "ring", "--set", "size=9")
    assert shown.code == 0, shown.err


def test_a_loss_from_one_file(site, tmp_path, graphrec) -> None:
    install(site, "hinge", "[graphrec.models]\nhinge-mf = hinge:HingeMF\n", hinge=LOSS)
    testing.check_model(models.model("hinge-mf"))
    pairs = [(u, (u + d) % 12) for u in range(12) for d in range(4)]
    testing.dataset(pairs, [], 12, 12, "d").save(tmp_path / "data")
    options = ["--out", tmp_path / "run", "--select", "none", "--set", "train.epochs=30"]
    trained = graphrec("train", "hinge-mf", tmp_path / "data", *options)
    assert trained.code == 0, trained.err
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss/hinge"] for line in lines]
    assert losses[0] == pytest.approx(3.0**2, rel=0.1), "the embeddings begin near zero: the margin, squared"
    assert losses[-1] < 0.9 * losses[0]


def test_one_file_and_one_line_register_each(site, monkeypatch, graphrec) -> None:
    for name, source in {"shy_model": MODEL, "ring": READER, "lengths": EXTRACTOR}.items():
        (site / f"{name}.py").write_text(source)
    monkeypatch.setitem(models.MODELS, "shy", "shy_model:Shy")
    monkeypatch.setitem(READERS, "ring", "ring:read")
    monkeypatch.setitem(EXTRACTORS, "lengths", "lengths:Lengths")
    for command, name in ((["models"], "shy"), (["data", "list"], "ring"), (["features", "list"], "lengths")):
        assert any(line.split()[:1] == [name] for line in graphrec(*command).out.splitlines()), name
    assert models.model("shy").name == "shy"
    assert load_dataset("ring").n_items == 12
    assert np.array_equal(extractor("lengths").encode(["ab"]), [[2, 1]])


def test_help_reads_no_entry_points() -> None:
    code = (
        "import importlib.metadata as metadata, sys\n"
        "real = metadata.entry_points\n"
        "def noticed(**options):\n"
        "    assert not options.get('group', '').startswith('graphrec'), options\n"
        "    return real(**options)\n"
        "metadata.entry_points = noticed\n"
        "from graphrec.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules and 'graphrec.core.registry' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
