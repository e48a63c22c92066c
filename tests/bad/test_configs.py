"""Options, configurations, saved datasets and runs: what is wrong is named, with what was expected."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bad.cases import Case, check_refused, lay, parametrize, table
from graphrec.cli import main as cli
from graphrec.core import bundle

OK = "user,item\nu1,a\nu1,b\nu2,a\nu2,b\n"
TRAIN = "train lightgcn saved --out new --set train.device=cpu"


def option(setting: str, *words: str) -> Case:
    return Case(f"--set {setting[:60]}", {"a.csv": OK}, table() + "--set " + shlex.quote(setting), words)


OPTIONS = [
    option("usr=user", "'usr'", "'user'"),
    option("ключ=1", "'ключ'"),
    option("user", "--set user", "KEY=VALUE"),
    option("", "KEY=VALUE"),
    option("=3", "KEY=VALUE"),
    option('{"user":"user"}', "KEY=VALUE"),
    option("user: user", "KEY=VALUE"),
    option("interactions=b.csv", "interactions"),
    option("user=üser", "a.csv", "'üser'", "'user'"),
    option("user=null", "option user=None"),
    option("user=3", "option user=3"),
    option("user=item", "'item'"),
    option("k_core=-1", "k_core=-1"),
    option("k_core=[-1,2]", "k_core=(-1, 2)"),
    option("k_core=1.5", "option k_core=1.5"),
    option("k_core=five", "option k_core='five'"),
    option("k_core=[1,2,3]", "option k_core=[1, 2, 3]"),
    option("k_core=true", "option k_core=True"),
    option("k_core=null", "option k_core=None"),
    option("seed=x", "option seed='x'"),
    option("seed=1.5", "option seed=1.5"),
    option("seed=true", "option seed=True"),
    option("seed=" + "9" * 5_000, "option seed="),
    option("min_rating=NaN", "min_rating=nan"),
    option("min_rating=1e400", "min_rating=inf"),
    option("name=../../x", "'../../x'"),
    option("text=" + "[" * 100_000, "items="),
    option("items=[1]", "option items=[1]", "str | Path | None"),
    option("split=randm", "split 'randm'", "'random'"),
    option("split=3", "split 3"),
    option("split=null", "split None"),
    option('split={"name":"random","vlid":0.5}', "'vlid'", "'valid'"),
    option('split={"name":"random","valid":0.5,"test":0.5}', "valid=0.5, test=0.5"),
    option('split={"name":"random","valid":-0.1}', "valid=-0.1"),
    option('split={"name":"random","valid":"x"}', "valid='x'"),
    option('split={"name":"random","valid":null}', "valid=None"),
    option('split={"name":"random","valid":true}', "valid=True"),
    option('split={"name":"random","valid":NaN}', "JSON"),
    option('split={"name":"cold-items","share":2}', "share=2"),
    option('split={"name":"cold-items","share":"x"}', "share='x'"),
    option('split={"name":"cold-items","then":"cold-items"}', "'cold-items'", "then="),
]


def config(setting: str, *words: str) -> Case:
    return Case(f"train --set {setting[:60]}", {}, f"{TRAIN} --set {shlex.quote(setting)}", words)


CONFIGS = [
    config("train.epochs=0", "epochs = 0"),
    config("train.epochs=1.5", "epochs = 1.5"),
    config("train.epochs=true", "epochs = True"),
    config("train.epochs=null", "epochs = None"),
    config("train.epochs=NaN", "epochs = nan"),
    config("train.epochs=1e400", "epochs = inf"),
    config("train.epochs=many", "epochs = 'many'"),
    config("train.epochs=[1]", "epochs = [1]"),
    config("train.batch_size=0", "batch_size = 0"),
    config("train.batch_size=1e30", "batch_size = 1e+30"),
    config("train.learning_rate=NaN", "learning_rate = nan"),
    config("train.learning_rate=-1", "learning_rate = -1"),
    config("train.learning_rate=1e400", "learning_rate = inf"),
    config("train.learning_rate=fast", "learning_rate = 'fast'"),
    config("train.learning_rate=" + "[" * 9_000, "learning_rate = '[["),
    config("train.schedule=step", "schedule = 'step'", "'cosine'"),
    config("train.clip_norm=0", "clip_norm = 0"),
    config("train.patience=0", "patience = 0"),
    config("train.seed=-1", "seed = -1"),
    config("train.precision=fp8", "precision = 'fp8'", "'bf16'"),
    config("train.progress=maybe", "progress = 'maybe'"),
    config("train.epoch=3", "epoch", "'epochs'"),
    config("model.dim=0", "dim = 0"),
    config("model.dim=true", "dim = True"),
    config("model.n_layers=-1", "n_layers = -1"),
    config("model.dim=1e18", "out of memory"),
    config("nothing.dim=1", "'nothing'"),
    Case("train --seed x", {}, f"{TRAIN} --seed x", ("--seed",)),
    Case("train --seed -1", {}, f"{TRAIN} --seed -1", ("seed = -1",)),
    Case("train --select recall@0", {}, f"{TRAIN} --select recall@0", ("'recall@0'",)),
]

PLACES = [
    Case("a run for a dataset", {}, "data show run", ("run: ", "data convert")),
    Case("a dataset for a run", {}, "evaluate saved", ("saved: ",)),
    Case("a file for a dataset", {"a.csv": OK}, "data show a.csv", ("'a.csv'",)),
    Case("a file for a run", {"a.csv": OK}, "evaluate a.csv", ("a.csv: ",)),
    Case("a name of 5,000 characters", {}, "evaluate " + "x" * 5_000, ("xxxxx",)),
    Case("a file for the run directory", {"f": ""}, "train popularity saved --out f", ("f: ",)),
    Case("a file for the saved dataset", {"f": ""}, "data convert saved --out f", ("f: ",)),
    Case("a file above the saved dataset", {"f": ""}, "data convert saved --out f/d", ("f/d: ",)),
    Case("a file for a shop", {"f": ""}, "data generate f", ("f: ",)),
    Case("a file for the store", {"f": ""}, "features status saved --store f", ("f: ",)),
    Case("a directory for a report", {}, "evaluate run --out saved", ("saved: ",)),
    Case("a cut-off of zero", {}, "evaluate run --k 0", ("--k '0'",)),
    Case("a cut-off of 5,000 digits", {}, "evaluate run --k " + "9" * 5_000, ("--k",)),
    Case("recommend none", {}, "recommend run --user u1 -k 0", ("1",)),
    Case("an empty list of ids", {"f": ""}, "recommend run --user u1 --only f", ("f: ",)),
    Case("a list of ids in latin-1", {"f": b"\xe9\n"}, "recommend run --user u1 --only f", ("f", "UTF-8")),
    Case("a list of unknown ids", {"f": "zzz\n"}, "recommend run --user u1 --only f", ("item 'zzz'",)),
    Case("a pipe of ids", {"f": os.mkfifo}, "recommend run --user u1 --only f", ("f",)),
    Case("a directory of ids", {}, "recommend run --user u1 --only saved", ("saved",)),
    Case("a pipe for vectors", {"f": os.mkfifo}, "features import saved text f", ("f: ",)),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved dataset and a run on it, not to be written to."""
    folder = tmp_path_factory.mktemp("made")
    before = Path.cwd()
    os.chdir(folder)
    try:
        rows = "".join(f"u{u},i{(u * 7 + k * 3) % 20},{k}\n" for u in range(12) for k in range(6))
        lay(folder, {"a.csv": "user,item,t\n" + rows.replace("u0,", "u1x,")})
        for line in ("data convert table --set interactions=a.csv --set time=t --out saved",
                     "train popularity saved --out run --set train.device=cpu"):  # fmt: skip
            with pytest.raises(SystemExit) as ended:
                cli.main(shlex.split(line))
            assert not ended.value.code
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """A copy as the test's own folder; its run names the dataset of the original."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


@parametrize([*OPTIONS, *CONFIGS, *PLACES])
def test_bad_options_are_refused(case, copy, refused):
    check_refused(case, copy, refused)
    assert not (copy / "new" / "run.json").exists()


def test_more_than_there_are_is_all(copy, graphrec):
    few, many = (graphrec("recommend", "run", "--user", "u1", "-k", k) for k in (99, 10**18))
    assert few.code == many.code == 0
    assert few.out == many.out


def edited(file: str, **changes: object) -> Callable[[Path], str]:
    """Changes fields of a JSON file or of its ``head``; None removes one."""

    def edit(folder: Path) -> str:
        path = folder / file
        value = json.loads(path.read_text())
        for field, changed in changes.items():
            owner = value["head"] if field in value.get("head", ()) else value
            owner[field] = changed
            if changed is None:
                del owner[field]
        if value.pop("seal", None) is not None and "format" not in changes:
            bundle.write_sealed(path, value)
        else:
            path.write_text(json.dumps(value))
        return path.name

    return edit


def damaged(file: str, change: Callable[[bytes], bytes]) -> Callable[[Path], str]:
    def damage(folder: Path) -> str:
        path = next(folder.glob(file))
        path.write_bytes(change(path.read_bytes()))
        return path.name

    return damage


def replaced(file: str, make: Callable[[Path], object]) -> Callable[[Path], str]:
    def replace(folder: Path) -> str:
        path = next(folder.glob(file))
        path.unlink()
        make(path)
        return path.name

    return replace


def flip(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


def loop(path: Path) -> None:
    path.symlink_to(path)


def nothing(path: Path) -> None: ...


SAVED = ["users-*.arrow", "items-*.arrow", "train-[!t]*.npy", "valid-[!t]*.npy", "test-[!t]*.npy",
         "train-times-*.npy"]  # fmt: skip
JSONS = {"empty": b"", "array": b"[]", "null": b"null", "deep": b"[" * 100_000, "latin-1": b'{"a":"\xe9"}',
         "cut": b'{"format": 1, "na', "digits": b'{"format":' + b"9" * 5_000 + b"}", "NULs": bytes(50),
         "UTF-16": "{}".encode("utf-16")}  # fmt: skip
HEADS = {
    "data show saved": "saved/dataset.json",
    "evaluate run": "run/run.json",
    "recommend run --user u1": "run/recommender/recommender.json",
}
DAMAGE = {
    **{f"{file} flipped": ("data show saved", damaged(f"saved/{file}", flip)) for file in SAVED},
    **{f"{file} cut": ("data show saved", damaged(f"saved/{file}", lambda b: b[:-9])) for file in SAVED},
    **{
        f"{file} {name}": ("data show saved", replaced(f"saved/{file}", make))
        for file in SAVED[1:3]
        for name, make in [("gone", nothing), ("a folder", Path.mkdir), ("a pipe", os.mkfifo), ("loop", loop)]
    },
    **{
        f"{Path(file).name} {name}": (line, damaged(file, lambda _, content=content: content))
        for line, file in HEADS.items()
        for name, content in JSONS.items()
    },
    **{
        f"{Path(file).name} a pipe": (line, replaced(file, os.mkfifo))
        for line, file in list(HEADS.items())[1:]
    },
    **{
        f"dataset.json {field}={value!r}": ("data show saved", edited("saved/dataset.json", **{field: value}))
        for field in ("name", "files", "meta", "content", "nodes", "relations", "fingerprint")
        for value in (None, 3, [1])
    },
    "dataset.json newer": ("data show saved", edited("saved/dataset.json", format=99)),
    "recommender.json newer": (
        "recommend run --user u1", edited("run/recommender/recommender.json", format=99)
    ),
    "best/state.json newer": ("evaluate run", edited("run/best/state.json", format=99)),
    "run.json without a model": ("evaluate run", edited("run/run.json", model=None)),
    "run.json with a wrong dataset": ("evaluate run", edited("run/run.json", dataset=3)),
    "weights flipped": ("evaluate run", damaged("run/best/*.safetensors", flip)),
    "weights a pipe": ("evaluate run", replaced("run/best/*.safetensors", os.mkfifo)),
    "item vectors flipped": ("recommend run --user u1", damaged("run/recommender/item_vectors*", flip)),
}  # fmt: skip


@pytest.mark.parametrize(("line", "damage"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_datasets_and_runs_are_refused(copy, refused, line, damage):
    name = damage(copy)
    message = refused(*shlex.split(line))
    assert name in message or "saved: " in message
