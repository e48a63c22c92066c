"""What users can get wrong, and files that are damaged: one line that says what to do, exit status 2."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphrec import runs
from graphrec.core.errors import FeatureError
from graphrec.data import Dataset
from graphrec.features import FeatureStore

Command = Callable[..., Any]
Refused = Callable[..., str]

SMALL = "--set train.epochs=2 --set train.device=cpu --set model.dim=8"


def flip(path: Path, at: int) -> None:
    """Changes one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("trian freedom shop/dataset", "'train'"),
        ("data shw shop/dataset", "'show'"),
        ("features buidl shop/dataset", "'build'"),
        ("train fredom shop/dataset", "'freedom'"),
        ("models lightgnc", "'lightgcn'"),
        ("train freedom amazon-babi", "'amazon-baby'"),
        ("train freedom shop", "'shop/dataset'"),
        ("data show movielens-smal", "'movielens-small'"),
        ("train freedom shop/dataset --sed 1", "--seed"),
        ("train freedom shop/dataset --set modle.dim=8", "'model'"),
        ("train freedom shop/dataset --set dim=8", "model.KEY=VALUE"),
        ("train freedom shop/dataset --set model.dmi=8", "'dim'"),
        ("train freedom shop/dataset --set model.dim=many", "dim = 'many'"),
        ("train freedom shop/dataset --set train.epoch=8", "'epochs'"),
        ("train freedom shop/dataset --set data.splt=random", "splt"),
        ("train freedom shop/dataset --set model.dim", "KEY=VALUE"),
        ("train freedom shop/dataset --set model.dim=8 --set model.dim=9", "model.dim"),
        ("train freedom shop/dataset --select recal@20 --out new", "'recall'"),
        ("train freedom shop/dataset --device gpu --out new", "'cpu'"),
        ("train freedom shop/dataset --text tfidf-svd2 --out new", "'tfidf-svd'"),
        ("train freedom shop/dataset --image none --text none --out new", "left out"),
        ("train freedom", "MODEL and a DATASET"),
        ("data show table --set interactoins=a.csv", "'interactions'"),
        ("data show table --root shop --set split=randm", "'random'"),
        ("features build shop/dataset --image hog-hvs", "'hog-hsv'"),
        ("features build shop/dataset --set image.sid=8", "'side'"),
        ("features build shop/dataset --set imag.side=8", "'image'"),
        ("features build shop/dataset --image none --text none", "['image', 'text']"),
        ("features import shop/dataset image", "FIELD and FILE"),
        ("features import shop/dataset", "dataset"),
        ("features gc --keep zzz", "'zzz'"),
        ("features verify --store nowhere", "nowhere"),
        ("evaluate runs/fredom", "'freedom'"),
        ("evaluate runs/freedom --split tset", "'test'"),
        ("evaluate runs/freedom --masked trian", "'train'"),
        ("evaluate runs/freedom --split valid --masked train+valid", "mask train"),
        ("evaluate runs/freedom --metrics recal", "'recall'"),
        ("evaluate runs/freedom --k 0", "'0'"),
        ("evaluate runs/freedom --format markdwn", "'markdown'"),
        ("recommend runs/freedom", "--user"),
        ("recommend runs/freedom --user U0000", "U0000"),
        ("recommend runs/freedom --user U00001 --only nothere.txt", "nothere.txt"),
        ("recommend runs/freedom --user U00001 --unknown popular", "'popularity'"),
        ("recommend shop --user U00001", "shop: "),
        ("similar runs/freedom --item P001", "'P0"),
        ("export runs/freedom", "--out"),
    ],
)  # fmt: skip
def test_typos_are_answered_with_what_was_meant(
    there: Path, refused: Refused, line: str, expected: str
) -> None:
    assert expected in refused(*shlex.split(line))
    assert not Path("new").exists()


def test_missing_features_are_answered_with_the_command_that_makes_them(
    there: Path, refused: Refused, graphrec: Command, tmp_path: Path
) -> None:
    store = tmp_path / "a store"
    message = refused("train", "freedom", "shop/dataset", "--store", store, "--out", tmp_path / "r")
    command = message.partition("run: graphrec ")[2]
    assert command.startswith("features build ")
    assert graphrec(*shlex.split(command), "--image", "none").code == 0
    half = refused("train", "freedom", "shop/dataset", "--store", store, "--out", tmp_path / "r")
    assert "--image none" in half
    alone = graphrec(
        "train",
        "freedom",
        "shop/dataset",
        "--store",
        store,
        "--out",
        tmp_path / "r",
        "--image",
        "none",
        *SMALL.split(),
    )
    assert alone.code == 0
    assert list(runs.open_run(tmp_path / "r").features) == ["text"]


def test_features_are_chosen_by_extractor_or_key(there: Path) -> None:
    data = Dataset.load("shop/dataset")
    key = FeatureStore("cache").tables("image")[0].folder.name
    assert list(runs.features_for("freedom", data, "cache", image=key[:6], text="none")) == ["image"]
    assert set(runs.features_for("freedom", data, "cache", text="tfidf-svd")) == {"image", "text"}
    assert runs.features_for("lightgcn", data, "nowhere") == {}
    with pytest.raises(FeatureError, match="open_clip"):
        runs.features_for("freedom", data, "cache", image="open_clip")


def damage_csv() -> str:
    text = Path("shop/interactions.csv").read_text()
    Path("shop/interactions.csv").write_text(text[: len(text) // 2].rsplit(",", 1)[0] + "\n")
    return "interactions.csv"


def damage_run_json() -> str:
    path = Path("runs/freedom/run.json")
    path.write_text(path.read_text()[:100])
    return "run.json"


def empty_run_json() -> str:
    Path("runs/freedom/run.json").write_text('{"model": 3}')
    return "run.json"


def damage_best() -> str:
    path = next(Path("runs/freedom/best").glob("*.safetensors"))
    flip(path, -3)
    return path.name


def damage_features() -> str:
    path = next(Path("cache/image").glob("*/*.npy"))
    flip(path, -3)
    return path.name


def damage_dataset() -> str:
    path = next(Path("shop/dataset").glob("train-[!t]*.npy"))
    flip(path, -3)
    return path.name


def damage_recommender() -> str:
    path = next(Path("runs/freedom/recommender").glob("item_vectors*.npy"))
    flip(path, -3)
    return path.name


def damage_titles() -> str:
    Path("runs/freedom/titles.json").write_text("[]")
    return "titles.json"


def change_title() -> str:
    path = Path("runs/freedom/titles.json")
    content = json.loads(path.read_text())
    content["titles"][next(iter(content["titles"]))] += "x"
    path.write_text(json.dumps(content))
    return "titles.json"


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (damage_csv, "data show table --root shop --set interactions=interactions.csv"),
        (damage_run_json, "evaluate runs/freedom"),
        (empty_run_json, "evaluate runs/freedom"),
        (damage_run_json, f"train freedom shop/dataset --out runs/freedom --resume {SMALL}"),
        (damage_best, "evaluate runs/freedom"),
        (damage_features, "evaluate runs/freedom"),
        (damage_dataset, "evaluate runs/freedom"),
        (damage_recommender, "recommend runs/freedom --user U00001"),
        (damage_titles, "recommend runs/freedom --user U00001"),
        (change_title, "recommend runs/freedom --user U00001"),
    ],
)  # fmt: skip
def test_damaged_files_are_named(copy: Path, refused: Refused, damage: Callable[[], str], line: str) -> None:
    assert damage() in refused(*shlex.split(line))


def test_debug_shows_the_traceback(there: Path, graphrec: Command) -> None:
    answer = graphrec("evaluate", "runs/nothing", "--debug")
    assert answer.code == 2
    assert "Traceback" in answer.err
