"""``graphrec converse``, and trainings of what conversations need, from the command line."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest

from graphrec import testing
from graphrec.cli import main as cli
from graphrec.core.bundle import write_sealed

TRAIN = ["--set", "train.epochs=1", "--set", "train.device=cpu", "--set", "train.progress=false"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset with attributes, and runs of fm and scpr on it; not to be written to."""
    folder = tmp_path_factory.mktemp("users")
    data, _ = testing.conversations(folder)
    data.save(folder / "data")
    policy = ["--set", "model.episodes=20", "--set", f"model.scorer={folder / 'fm'}"]
    for line in (
        ["train", "fm", folder / "data", "--out", folder / "fm", *TRAIN],
        ["train", "scpr", folder / "data", "--out", folder / "scpr", *policy, *TRAIN],
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(part) for part in line])
        assert not ended.value.code, line
    return folder


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch):
    """Puts lines on standard input."""

    def put(*lines: str) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))

    return put


@pytest.mark.parametrize("run", ["fm", "scpr", "scpr/conversation"])
def test_a_conversation_to_the_end(trained, graphrec, says, run) -> None:
    says(*(["?", "n"] * 40))  # one of the two is an answer to everything
    answer = graphrec("converse", trained / run)
    assert answer.code == 0
    assert "30 left." in answer.out
    assert answer.out.count("How about one of these?") >= 3
    assert "nothing is left to recommend" in answer.out


def test_choosing_an_item_ends_it(trained, graphrec, says) -> None:
    says("2", "n")
    answer = graphrec("converse", trained / "scpr", "--policy", "abs-greedy", "--user", "u3")
    assert answer.code == 0
    second = next(line for line in answer.out.splitlines() if line.startswith("   2. "))
    assert answer.out.splitlines()[-1] == f"found: {second.split('2. ')[1].split(' (')[0]}"


def test_taking_back_mistyping_and_quitting(trained, graphrec, says) -> None:
    says("b", "maybe", "y", "b", "n", "q")
    answer = graphrec("converse", trained / "fm", "--policy", "ask-then-recommend:5")
    assert answer.code == 0
    assert "undo" in answer.err
    assert "'maybe' is not an answer; expected y, n or ?" in answer.err
    first = [line for line in answer.out.splitlines() if line.startswith("1. ")]
    assert len(first) == 2
    assert len(set(first)) == 1


def test_a_saved_conversation_goes_on(trained, graphrec, says, tmp_path) -> None:
    says("y", "n")
    with_rule = ["--policy", "ask-then-recommend:5"]
    talk = tmp_path / "talk.json"
    begun = graphrec("converse", trained / "fm", *with_rule, "--like", "a3", "--save", talk)
    assert begun.code == 0
    assert f"--replay {talk}" in begun.err
    asked = [e["asked"] for e in json.loads(talk.read_text())["events"]]
    says("q")
    again = graphrec("converse", trained / "fm", *with_rule, "--replay", talk)
    assert again.out.splitlines()[:2] == [f"- {asked[0]}? yes", f"- {asked[1]}? no"]
    assert again.out.splitlines()[2].startswith("3. ")


def test_it_says_when_nothing_meets_all_that_was_said(trained, graphrec, says) -> None:
    says("q")
    everything = [part for a in range(8) for part in ("--like", f"a{a}")]
    assert "these contradict" in graphrec("converse", trained / "fm", *everything).out
    says("q")
    assert "contradict" not in graphrec("converse", trained / "fm", "--like", "a3").out


def test_another_belief_can_be_chosen(trained, graphrec, says) -> None:
    says("q")
    answer = graphrec("converse", trained / "scpr", "--belief", "posterior", "--error", "0.1")
    assert answer.code == 0


def test_evaluating_a_policy_shows_the_rules_beside_it(trained, graphrec) -> None:
    answer = graphrec("evaluate", trained / "scpr", "--split", "valid")
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert lines[1].split()[:2] == ["policy", "SR@5"]
    shown = [line.split("  ")[0] for line in lines[2:]]
    assert shown[0] == "scpr"
    for rule in ("random", "abs-greedy", "max-entropy", "ask-then-recommend", "recommend-when-few",
                 "recommend-when-few-or-late"):  # fmt: skip
        assert any(name.startswith(rule) for name in shown)


def test_evaluating_without_test_pairs_is_refused(trained, refused) -> None:
    assert "no held-out pair" in refused("evaluate", trained / "scpr")


def test_mistakes_are_one_line_and_say_what_to_do(trained, refused, tmp_path) -> None:
    fm = trained / "fm"
    assert "Did you mean 'a3'" in refused("converse", fm, "--like", "a33")
    assert "u77" in refused("converse", fm, "--user", "u77")
    assert "Did you mean 'max-entropy'" in refused("converse", fm, "--policy", "max-entrpy")
    assert "Did you mean 'posterior'" in refused("converse", fm, "--belief", "postrior")
    candidates = ["--belief", "candidates", "--error", "0.1"]
    assert "--belief posterior" in refused("converse", trained / "scpr", *candidates)
    assert "no run there" in refused("converse", tmp_path / "nothing")
    assert "leave out --user" in refused("converse", fm, "--replay", "x.json", "--user", "u1")
    assert "no such file" in refused("converse", fm, "--replay", tmp_path / "x.json")
    (tmp_path / "x.json").write_text("[1]")
    assert "x.json: holds list" in refused("converse", fm, "--replay", tmp_path / "x.json")
    (tmp_path / "x.json").write_text('{"format": 1, "agent": "0", "user": null, "likes": [], "events": []}')
    assert "led by agent" in refused("converse", fm, "--replay", tmp_path / "x.json")
    assert "graphrec train fm" in refused("train", "scpr", trained / "data", "--out", tmp_path / "run")
    assert "does not rank items" in refused("tune", "scpr", trained / "data", "--out", tmp_path / "study")


def test_what_ranks_nothing_says_what_it_is_for(trained, refused, tmp_path) -> None:
    for command in (("recommend", "--user", "u1"), ("similar", "--item", "i1")):
        assert "graphrec converse" in refused(command[0], trained / "scpr", *command[1:])
    for seed in (0, 1):
        shutil.copytree(trained / "scpr", tmp_path / f"scpr-{seed}")
    record = tmp_path / "scpr-1" / "run.json"
    facts = json.loads(record.read_text())
    del facts["seal"]
    facts["seed"] = facts["train_config"]["seed"] = facts["model_config"]["seed"] = 1
    write_sealed(record, facts)
    message = refused("compare", tmp_path / "scpr-0", tmp_path / "scpr-1", "--split", "valid")
    assert "does not rank items" in message


def test_damaged_runs_are_refused(trained, refused, tmp_path) -> None:
    shutil.copytree(trained / "scpr", tmp_path / "scpr")
    for file in (tmp_path / "scpr" / "conversation").glob("*.npy"):
        file.write_bytes(file.read_bytes()[:-1])
    assert "sha256" in refused("converse", tmp_path / "scpr")
    shutil.rmtree(tmp_path / "scpr" / "conversation")
    assert "run of 'scpr'" in refused("converse", tmp_path / "scpr")


def test_a_dataset_without_attributes_is_refused(trained, refused, tmp_path) -> None:
    other, _ = testing.communities(2, 20)
    other.with_splits(other.train, other.test, other.valid).save(tmp_path / "other")
    policy = ["--set", f"model.scorer={trained / 'fm'}", "--out", tmp_path / "run"]
    assert "no attributes" in refused("train", "scpr", tmp_path / "other", *policy)
