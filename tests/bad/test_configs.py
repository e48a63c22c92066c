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
    option("usr=user", "no option 'usr'", "Did you mean 'user'"),
    option("ключ=1", "no option 'ключ'"),
    option("user", "--set user: expected KEY=VALUE"),
    option("", "expected KEY=VALUE"),
    option("=3", "expected KEY=VALUE"),
    option('{"user":"user"}', "expected KEY=VALUE"),
    option("user: user", "expected KEY=VALUE"),
    option("interactions=b.csv", "interactions is set twice"),
    option("user=üser", "a.csv: no column 'üser'", "Did you mean 'user'"),
    option("user=null", "option user=None", "expected str"),
    option("user=3", "option user=3", "expected str"),
    option("user=item", "user and item are both column 'item'"),
    option("k_core=-1", "k_core=-1", "from 0"),
    option("k_core=[-1,2]", "k_core=(-1, 2)", "from 0"),
    option("k_core=1.5", "option k_core=1.5", "valid integer"),
    option("k_core=five", "option k_core='five'"),
    option("k_core=[1,2,3]", "option k_core=[1, 2, 3]"),
    option("k_core=true", "option k_core=True", "expected int"),
    option("k_core=null", "option k_core=None"),
    option("seed=x", "option seed='x'"),
    option("seed=1.5", "option seed=1.5"),
    option("seed=true", "option seed=True"),
    option("seed=" + "9" * 5_000, "option seed=", "as an integer"),
    option("min_rating=NaN", "min_rating=nan"),
    option("min_rating=1e400", "min_rating=inf"),
    option("name=../../x", "'../../x' cannot name a dataset"),
    option("text=" + "[" * 100_000, "name that with items="),
    option("items=[1]", "option items=[1]", "expected str | Path | None"),
    option("split=randm", "split 'randm'", "Did you mean 'random'"),
    option("split=3", "split 3"),
    option("split=null", "split None"),
    option('split={"name":"random","vlid":0.5}', "no option 'vlid'", "Did you mean 'valid'"),
    option('split={"name":"random","valid":0.5,"test":0.5}', "valid=0.5, test=0.5", "sum below 1"),
    option('split={"name":"random","valid":-0.1}', "valid=-0.1"),
    option('split={"name":"random","valid":"x"}', "valid='x'", "sum below 1"),
    option('split={"name":"random","valid":null}', "valid=None"),
    option('split={"name":"random","valid":true}', "valid=True"),
    option('split={"name":"random","valid":NaN}', "cannot be recorded as JSON"),
    option('split={"name":"cold-items","share":2}', "share 2", "0 < share < 1"),
    option('split={"name":"cold-items","share":"x"}', "share 'x'", "0 < share < 1"),
    option('split={"name":"cold-items","then":"cold-items"}', "cannot be followed by itself"),
]


def config(setting: str, *words: str) -> Case:
    return Case(f"train --set {setting[:60]}", {}, f"{TRAIN} --set {shlex.quote(setting)}", words)


CONFIGS = [
    config("train.epochs=0", "epochs = 0", "greater than or equal to 1"),
    config("train.epochs=1.5", "epochs = 1.5", "valid integer"),
    config("train.epochs=true", "epochs = True", "expected int"),
    config("train.epochs=null", "epochs = None", "valid integer"),
    config("train.epochs=NaN", "epochs = nan", "finite"),
    config("train.epochs=1e400", "epochs = inf", "finite"),
    config("train.epochs=many", "epochs = 'many'", "valid integer"),
    config("train.epochs=[1]", "epochs = [1]", "valid integer"),
    config("train.batch_size=0", "batch_size = 0", "greater than or equal to 1"),
    config("train.batch_size=1e30", "batch_size = 1e+30", "maximum size"),
    config("train.learning_rate=NaN", "learning_rate = nan", "finite"),
    config("train.learning_rate=-1", "learning_rate = -1", "greater than 0"),
    config("train.learning_rate=1e400", "learning_rate = inf", "finite"),
    config("train.learning_rate=fast", "learning_rate = 'fast'", "valid number"),
    config("train.learning_rate=" + "[" * 9_000, "learning_rate = '[["),
    config("train.schedule=step", "schedule = 'step'", "'cosine'"),
    config("train.clip_norm=0", "clip_norm = 0", "greater than 0"),
    config("train.patience=0", "patience = 0", "greater than or equal to 1"),
    config("train.seed=-1", "seed = -1", "greater than or equal to 0"),
    config("train.precision=fp8", "precision = 'fp8'", "'bf16'"),
    config("train.progress=maybe", "progress = 'maybe'", "valid boolean"),
    config("train.epoch=3", "epoch is not an option", "Did you mean 'epochs'"),
    config("model.dim=0", "dim = 0", "greater than or equal to 1"),
    config("model.dim=true", "dim = True", "expected int"),
    config("model.n_layers=-1", "n_layers = -1", "greater than or equal to 0"),
    config("model.dim=1e18", "out of memory"),
    config("nothing.dim=1", "'nothing' is not one of the prefixes"),
    Case("train --seed x", {}, f"{TRAIN} --seed x", ("--seed", "valid integer")),
    Case("train --seed -1", {}, f"{TRAIN} --seed -1", ("seed = -1",)),
    Case("train --select recall@0", {}, f"{TRAIN} --select recall@0", ("'recall@0'", "from 1")),
]

PLACES = [
    Case("a run for a dataset", {}, "data show run", ("run: no saved dataset there", "data convert")),
    Case("a dataset for a run", {}, "evaluate saved", ("saved: no run there",)),
    Case("a file for a dataset", {"a.csv": OK}, "data show a.csv", ("no dataset 'a.csv'",)),
    Case("a file for a run", {"a.csv": OK}, "evaluate a.csv", ("a.csv: no run there",)),
    Case("a name of 5,000 characters", {}, "evaluate " + "x" * 5_000, ("File name too long",)),
    Case(
        "a file for the run directory", {"f": ""}, "train popularity saved --out f", ("f: cannot be written",)
    ),
    Case("a file for the saved dataset", {"f": ""}, "data convert saved --out f", ("f: cannot be written",)),
    Case("a file above the saved dataset", {"f": ""}, "data convert saved --out f/d", ("f/d: cannot be",)),
    Case("a file for a shop", {"f": ""}, "data generate f", ("f: cannot be written",)),
    Case("a file for the store", {"f": ""}, "features status saved --store f", ("f: not a directory",)),
    Case("a directory for a report", {}, "evaluate run --out saved", ("saved: cannot be written",)),
    Case("a cut-off of zero", {}, "evaluate run --k 0", ("--k '0'", "from 1")),
    Case("a cut-off of 5,000 digits", {}, "evaluate run --k " + "9" * 5_000, ("from 1 to 999999",)),
    Case("recommend none", {}, "recommend run --user u1 -k 0", ("greater than or equal to 1",)),
    Case("an empty list of ids", {"f": ""}, "recommend run --user u1 --only f", ("f: the file holds no id",)),
    Case("a list of ids in latin-1", {"f": b"\xe9\n"}, "recommend run --user u1 --only f", ("f", "UTF-8")),
    Case("a list of unknown ids", {"f": "zzz\n"}, "recommend run --user u1 --only f", ("item 'zzz'",)),
    Case("a pipe of ids", {"f": os.mkfifo}, "recommend run --user u1 --only f", ("f", "not a regular file")),
    Case("a directory of ids", {}, "recommend run --user u1 --only saved", ("saved", "not a regular file")),
    Case("a pipe for vectors", {"f": os.mkfifo}, "features import saved text f", ("f: a named pipe",)),
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
    """Changes fields of a JSON file; None removes one."""

    def edit(folder: Path) -> str:
        path = folder / file
        value = {k: v for k, v in {**json.loads(path.read_text()), **changes}.items() if v is not None}
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


SAVED = ["users.arrow", "items.arrow", "train.npy", "valid.npy", "test.npy", "train-times.npy"]
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
    "dataset.json newer": ("data show saved", edited("saved/dataset.json", format=2)),
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
    assert name in message or "no saved dataset there" in message
