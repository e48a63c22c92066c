"""Training that is killed, runs out of disk or loses its files: what was committed stays, and goes on."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import training
from training import Trainings, outcome, until_done

from graphrec.cli import main as cli
from graphrec.core import bundle, files
from graphrec.core.errors import CheckpointError
from graphrec.core.random import numpy_rng
from graphrec.data import Dataset
from graphrec.serving import Recommender
from graphrec.training import checkpoint, run_directory

pytest.importorskip("resource", reason="killing and limits are POSIX's")


@pytest.fixture(scope="module")
def trainings() -> Iterator[Trainings]:
    with Trainings() as warm:
        yield warm


@pytest.fixture(scope="module")
def straight(trainings: Trainings, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An uninterrupted run of FREEDOM: its outcome, and the names of all steps it took."""
    folder = tmp_path_factory.mktemp("straight")
    task = {"model": "freedom", "out": folder / "run", "trained": folder / "trained"}
    assert trainings.run(**task, steps=folder / "steps") == 0
    found = outcome(folder / "run")
    steps = (folder / "steps").read_text().splitlines()
    epochs = len((folder / "trained").read_text())
    assert epochs == len(found["metrics"]) == found["best"]["step"] + training.PATIENCE + 1, "stops early"
    return {"outcome": found, "steps": steps, "epochs": epochs, "folder": folder / "run"}


def task(folder: Path, **more: Any) -> dict[str, Any]:
    return {"model": "freedom", "out": folder / "run", "trained": folder / "trained", **more}


def lines(path: Path) -> list[str]:
    return path.read_text().strip().splitlines()


# -- killed --------------------------------------------------------------------------------------------------


def test_killed_at_random_moments(trainings: Trainings, straight: dict[str, Any], tmp_path: Path) -> None:
    """Ten kills and more; each costs one epoch at most, and nothing in the outcome shows them."""
    rng, seen = numpy_rng(0, "test/kills"), Counter[str]()
    kills = runs = 0
    while kills < 10:
        folder = tmp_path / str(runs)
        folder.mkdir()
        most = len(straight["steps"]) // 2
        left = until_done(trainings, rng, most, **task(folder, slow=0.002, steps=folder / "steps"))
        assert outcome(folder / "run") == straight["outcome"]
        assert len(lines(folder / "trained")[0]) <= straight["epochs"] + len(left), "an epoch a kill"
        kills, runs = kills + len(left), runs + 1
        seen.update(what for found in left for what in found)
    assert seen["temporary file"] + seen["uncommitted file"] >= 2, f"too few kills were mid-write: {seen}"


def test_killed_at_every_kind_of_step(trainings: Trainings, straight: dict[str, Any], tmp_path: Path) -> None:
    """Half-way through each file, before each rename and removal; the first of its kind and the second."""
    counted, left = Counter(straight["steps"]), set()
    places: list[str | int] = [name for name in counted if name != "flush"]
    places += [f"{name} again" for name in places if counted[name] > 1]
    assert len(places) >= 30
    removed = [n for n, name in enumerate(straight["steps"], 1) if name.startswith("remove")]
    places += removed[-1:]  # the last one: nothing is written afterwards that would remove it
    for n, place in enumerate(places):
        folder = tmp_path / str(n)
        folder.mkdir()
        assert trainings.run(**task(folder, kill=place)) == -9, place
        left |= training.left_behind(folder / "run")
        assert trainings.run(**task(folder)) == 0, place
        assert outcome(folder / "run") == straight["outcome"], place
        assert len(lines(folder / "trained")[0]) <= straight["epochs"] + 1, place
    expected = {"temporary file", "uncommitted file", "last without best", "half a line", "no checkpoint yet"}
    assert left == expected


def test_the_harness_finds_files_written_in_place(trainings: Trainings, tmp_path: Path) -> None:
    assert trainings.run(**task(tmp_path, naive=True, kill="half last/state.json again")) == -9
    assert trainings.run(**task(tmp_path, naive=True, stderr=tmp_path / "stderr")) == 1
    assert "state.json: not readable as JSON" in (tmp_path / "stderr").read_text()


def test_a_run_goes_on_although_half_a_line_was_logged(
    straight: dict[str, Any], trainings: Trainings, tmp_path: Path
) -> None:
    shutil.copytree(straight["folder"], tmp_path / "run")
    with open(tmp_path / "run/metrics.jsonl", "a") as file:
        file.write('{"epoch": 10, "lo')
    assert trainings.run(**task(tmp_path)) == 0
    assert outcome(tmp_path / "run") == straight["outcome"]


def test_a_recommender_killed_while_it_is_saved_is_the_old_or_the_new(
    trainings: Trainings, tmp_path: Path
) -> None:
    assert trainings.run(save=tmp_path / "new", dim=8, steps=tmp_path / "steps") == 0
    n_steps = len(lines(tmp_path / "steps")) + 2  # and the removal of the other one's vectors
    dims = []
    for n in range(1, n_steps + 1):
        place = tmp_path / str(n)
        training.recommender(4).save(place)
        assert trainings.run(save=place, dim=8, kill=n) == -9, n
        found = Recommender.load(place)
        assert found.user_vectors.shape[1] == found.item_vectors.shape[1]
        dims.append(found.user_vectors.shape[1])
        assert trainings.run(save=place, dim=8) == 0
        assert {p.name for p in place.iterdir()} == {p.name for p in (tmp_path / "new").iterdir()}
    assert dims == sorted(dims)
    assert set(dims) == {4, 8}


# -- the same through the command line -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved dataset, features of its items, and a run that was stopped by a kill after some epochs."""
    folder = tmp_path_factory.mktemp("shop")
    for line in (
        f"data generate {folder}/shop --items 40 --users 60",
        f"features build {folder}/shop/dataset --store {folder}/cache",
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(line.split())
        assert not ended.value.code, line
    return folder


def arguments(folder: Path, out: Path) -> list[str]:
    options = ["train.epochs=4", "train.device=cpu", "train.progress=false", "model.dim=8"]
    sets = [part for option in options for part in ("--set", option)]
    line = ["train", "freedom", f"{folder}/shop/dataset", "--store", f"{folder}/cache", "--out", str(out)]
    return [*line, *sets, "--resume"]


def test_the_command_line_resumes_after_kills(trainings: Trainings, shop: Path, tmp_path: Path) -> None:
    steps = tmp_path / "steps"
    assert trainings.run(arguments=arguments(shop, tmp_path / "straight"), steps=steps) == 0
    expected = outcome(tmp_path / "straight")
    out = tmp_path / "straight"
    names = [
        s for s in dict.fromkeys(lines(steps)) if s.split("/")[0].split()[-1] in ("recommender", "straight")
    ]
    places = [n.replace("straight", "killed") for n in names if n.startswith("half")]
    assert any("titles" in place for place in places)
    for place in (*places, "half last/model again", "rename last/state.json again"):
        assert trainings.run(arguments=arguments(shop, tmp_path / "killed"), kill=place) == -9, place
        assert trainings.run(arguments=arguments(shop, tmp_path / "killed")) == 0, place
        assert outcome(tmp_path / "killed") == expected, place
        for name in ("titles.json", "recommender/recommender.json"):
            assert (tmp_path / "killed" / name).read_bytes() == (out / name).read_bytes()
        shutil.rmtree(tmp_path / "killed")


@pytest.fixture
def stopped(shop: Path, tmp_path: Path, trainings: Trainings) -> Path:
    """A copy of the shop, with a run in ``run/`` that was killed in its second epoch."""
    shutil.copytree(shop, tmp_path / "copy")
    copy = tmp_path / "copy"
    at = "half last/model again"
    assert trainings.run(arguments=arguments(copy, copy / "run"), kill=at) == -9
    assert checkpoint.read(copy / "run/last")["step"] == 1
    return copy


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command line that must fail as the user's mistake; what it prints about it."""

    def run(line: list[str]) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main(line)
        error = capsys.readouterr().err
        assert ended.value.code == 2
        assert "Traceback" not in error
        lines = error.rstrip().splitlines()
        begins = [number for number, line in enumerate(lines) if line.startswith("error: ")]
        assert len(begins) == 1, error
        assert all(line.startswith("  ") for line in lines[begins[0] + 1 :]), "only details follow the error"
        return "\n".join(lines[begins[0] :])

    return run


def flip(path: Path, at: int = -3) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def first(folder: Path, pattern: str) -> Path:
    return sorted(folder.glob(pattern))[0]


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no features": (lambda c: shutil.rmtree(c / "cache"), "features build"),
    "a feature file gone": (lambda c: first(c, "cache/image/*/*.npy").unlink(), "cache/image/"),
    "a feature file flipped": (lambda c: flip(first(c, "cache/text/*/*.npy")), "cache/text/"),
    "no dataset": (lambda c: shutil.rmtree(c / "shop/dataset"), "shop/dataset: no saved dataset"),
    "a split gone": (lambda c: first(c, "shop/dataset/train-[!t]*.npy").unlink(), ".npy: no such file"),
    "a split flipped": (lambda c: flip(first(c, "shop/dataset/train-[!t]*.npy")), ".npy: its sha256"),
    "another dataset": (
        lambda c: (
            Dataset.load(c / "shop/dataset")
            .with_splits(*(getattr(Dataset.load(c / "shop/dataset"), s) for s in ("train", "test", "valid")))
            .save(c / "shop/dataset")
        ),
        "dataset.fingerprint: ",
    ),
    "run.json cut": (lambda c: (c / "run/run.json").write_text('{"model": "freed'), "run.json: not readable"),
    "run.json a list": (lambda c: (c / "run/run.json").write_text("[]"), "run.json: its content"),
    "run.json edited": (
        lambda c: (c / "run/run.json").write_text(
            (c / "run/run.json").read_text().replace('"n_ui_layers": 2', '"n_ui_layers": 3')
        ),
        "run.json: its content is not what was written",
    ),
    "state flipped": (lambda c: flip(c / "run/last/state.json", 200), "last/state.json"),
    "weights flipped": (lambda c: flip(first(c, "run/last/model*")), "last/model"),
    "moments cut": (lambda c: os.truncate(first(c, "run/last/opt*"), 99), "last/optimizer"),
    "moments gone": (
        lambda c: first(c, "run/last/opt*").unlink(),
        "no such file, though state.json names it",
    ),
    "a file where a folder was": (
        lambda c: (shutil.rmtree(c / "run/last"), (c / "run/last").write_text("")),
        "run/last: cannot be written",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_resuming_rests_on_is_checked(
    stopped: Path, refused: Callable[..., str], trainings: Trainings, damage: str
) -> None:
    spoil, named = DAMAGES[damage]
    spoil(stopped)
    message = refused(arguments(stopped, stopped / "run"))
    assert named in message
    assert str(stopped) in message


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda best: shutil.rmtree(best), r"best/state\.json: no such file"),
        (lambda best: flip(first(best, "model*")), r"best/model-\w+\.safetensors: its sha256"),
        (lambda best: checkpoint.write(best, 3, torch.nn.Linear(1, 1)), "made for another model"),
        (lambda best: bundle.write_sealed(best / "state.json", older(best)), "is of epoch 3, but according"),
    ],
)
def test_the_best_checkpoint_is_missed_before_more_is_trained(
    straight: dict[str, Any], tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    shutil.copytree(straight["folder"], tmp_path / "run")
    spoil(tmp_path / "run/best")
    with pytest.raises(CheckpointError, match=message):
        training.train("freedom", tmp_path / "run")


def older(best: Path) -> dict[str, Any]:
    state = bundle.read_sealed(best / "state.json", "")
    return {**state, "head": {**state["head"], "step": 3}}


# -- no room, no permission ----------------------------------------------------------------------------------


class Failing:
    """Opens files as usual, but one of them takes half of what is written and then raises."""

    def __init__(self, name: str, skip: int, code: int) -> None:
        self.name, self.skip, self.code = name, skip, code

    def __call__(self, path: Path, mode: str = "r", **options: Any) -> Any:
        file = open(path, mode, **options)  # noqa: SIM115, the caller closes it
        if "r" in mode or self.name not in str(path):
            return file
        self.skip -= 1
        if self.skip < 0:
            write = file.write

            def fail(data: Any) -> int:
                write(data[: len(data) // 2])
                raise OSError(self.code, os.strerror(self.code))

            file = training.Torn(file, "", lambda _: None)
            file.write = fail  # type: ignore[method-assign]
        return file


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize(
    ("name", "skip", "step"),
    [
        ("run.json", 0, None),
        ("metrics.jsonl", 0, None),
        ("last/.model", 0, None),
        ("last/.model", 2, 2),
        ("last/.optimizer", 2, 2),
        ("last/.state", 2, 2),
        ("best/.model", 2, 3),
        ("best/.state", 2, 3),
        ("metrics.jsonl", 3, 2),  # logged before the checkpoint of its epoch
    ],
)
def test_a_write_that_fails_is_explained(
    straight: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    name: str, skip: int, step: int | None, code: int,
) -> None:  # fmt: skip
    """Whichever file it is and whatever the reason: the last good checkpoint is whole and goes on."""
    out = tmp_path / "run"
    failing = Failing(name, skip, code)
    monkeypatch.setattr(files, "open", failing, raising=False)
    monkeypatch.setattr(run_directory, "open", failing, raising=False)
    with pytest.raises(CheckpointError) as caught:
        training.train("freedom", out)
    monkeypatch.undo()
    for part in (str(out), "cannot be written", os.strerror(code), "resume"):
        assert part in str(caught.value)
    assert checkpoint.exists(out / "last") == (step is not None)
    if step is not None:
        assert checkpoint.read(out / "last")["step"] == step
    training.train("freedom", out)
    assert outcome(out) == straight["outcome"]


def test_a_failing_flush_is_explained(
    straight: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.fsync, iter(range(1000))

    def fsync(handle: int) -> None:
        if next(calls) >= 40:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(CheckpointError, match="No space left"):
        training.train("freedom", tmp_path / "run")
    monkeypatch.undo()
    assert checkpoint.read(tmp_path / "run/last")["step"] >= 2
    training.train("freedom", tmp_path / "run")
    assert outcome(tmp_path / "run") == straight["outcome"]


def test_a_limit_on_file_sizes_is_explained(stopped: Path, trainings: Trainings, tmp_path: Path) -> None:
    """A real one, which the system enforces in the middle of a write."""
    out, stderr = stopped / "run", tmp_path / "stderr"
    again = arguments(stopped, out)
    assert trainings.run(arguments=again, largest=50_000, stderr=stderr) == 2
    last = lines(stderr)[-1]
    assert last.startswith(f"error: {out / 'last'}: cannot be written (")
    assert os.strerror(errno.EFBIG) in last
    assert "Traceback" not in stderr.read_text()
    assert checkpoint.read(out / "last")["step"] == 1
    assert trainings.run(arguments=again) == 0
    assert trainings.run(arguments=arguments(stopped, stopped / "straight")) == 0
    assert outcome(out) == outcome(stopped / "straight")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root and the right to mount")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_full_or_read_only(
    straight: dict[str, Any], disk: Path, trainings: Trainings, tmp_path: Path
) -> None:
    stderr = tmp_path / "stderr"
    assert trainings.run(**task(disk, kill="half last/model again")) == -9
    try:
        with open(disk / "filler", "wb", buffering=0) as file:
            while file.write(bytes(4096)) == 4096:
                pass
    except OSError:
        pass
    assert trainings.run(**task(disk, trained=tmp_path / "t", stderr=stderr)) == 1
    assert "No space left" in lines(stderr)[-1]
    (disk / "filler").unlink()
    for option, code in (("remount,ro", 1), ("remount,rw", 0)):
        subprocess.run(["mount", "-o", option, str(disk)], check=True)
        assert checkpoint.read(disk / "run/last")["step"] == 1
        assert trainings.run(**task(disk, trained=tmp_path / "t", stderr=stderr)) == code
    assert outcome(disk / "run") == straight["outcome"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission(straight: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(straight["folder"], tmp_path / "run")
    (tmp_path / "run").chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match=r"run: cannot be written .*permit writing"):
            training.train("freedom", tmp_path / "run")
    finally:
        (tmp_path / "run").chmod(0o700)
    training.train("freedom", tmp_path / "run")
    assert outcome(tmp_path / "run") == straight["outcome"]


@pytest.mark.parametrize("what", [".", "run.json"])
def test_a_directory_that_vanishes_during_training_is_missed(tmp_path: Path, what: str) -> None:
    def remove(record: dict[str, float]) -> None:
        if record["epoch"] == 2:
            shutil.rmtree(tmp_path / "run") if what == "." else (tmp_path / "run" / what).unlink()

    with pytest.raises(CheckpointError, match="has vanished during training"):
        training.train("freedom", tmp_path / "run", on_epoch=remove)
