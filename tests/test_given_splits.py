"""Splits that come with the data: in files of their own, or as labels, with or without a validation part."""

import pytest

from graphrec.core.errors import ConfigError, DataError
from graphrec.data.readers import load_dataset
from tests.layouts import write

TRAIN = "user,item,time\n" + "".join(f"u{u},{i},{u + i}\n" for u in range(6) for i in range(6) if (u + i) % 3)
VALID = "user,item,time\n" + "".join(f"u{u},{u},50\n" for u in (0, 3))
TEST = "user,item,time\n" + "".join(f"u{u},{i},99\n" for u, i in ((1, 2), (2, 1), (4, 5)))
FILES = {"interactions.csv": TRAIN, "valid.csv": VALID, "test.csv": TEST}


def rows(part, data):
    return {f"{data.users[u]},{data.items[i]}" for u, i in zip(part.users, part.items, strict=True)}


def expected(text):
    return {line.rpartition(",")[0] for line in text.splitlines()[1:]}


@pytest.mark.parametrize("files", [("valid", "test"), ("test",), ("valid",)])
def test_parts_in_files_are_the_splits(tmp_path, files):
    write(tmp_path, FILES)
    data = load_dataset("table", tmp_path, time="time", **{name: f"{name}.csv" for name in files})
    assert rows(data.train, data) == expected(TRAIN)
    assert rows(data.valid, data) == (expected(VALID) if "valid" in files else set())
    assert rows(data.test, data) == (expected(TEST) if "test" in files else set())
    assert data.test.times is not None
    assert set(data.test.times.tolist()) == ({99} if "test" in files else set())


def test_errors_name_the_file_and_its_row(tmp_path):
    write(
        tmp_path,
        {**FILES, "empty.csv": TEST + ",3,1\n", "other.csv": "user,thing\nu1,2\n", "twice.csv": TRAIN},
    )
    with pytest.raises(DataError, match=r"empty\.csv, row 5: user id"):
        load_dataset("table", tmp_path, test="empty.csv")
    with pytest.raises(DataError, match=r"other\.csv.*'item'"):
        load_dataset("table", tmp_path, test="other.csv")
    with pytest.raises(DataError, match=r"user 'u0' item '1'.*more than one split"):
        load_dataset("table", tmp_path, test="twice.csv")
    with pytest.raises(ConfigError, match=r"split='time'.*test="):
        load_dataset("table", tmp_path, test="test.csv", split="time", time="time")


def test_a_split_without_validation_is_trained_on_as_it_is(tmp_path, graphrec):
    write(tmp_path, FILES)
    out = tmp_path / "run"
    line = ["train", "mf", "table", "--root", str(tmp_path), "--set", "data.test=test.csv"]
    options = ["--out", str(out), "--set", "train.epochs=3", "--set", "model.dim=4"]
    answer = graphrec(*line, *options)
    assert answer.code == 0, answer.err
    assert "no validation part" in answer.err
    assert "3 epochs" in answer.err
    again = graphrec(*line, *options, "--resume")
    assert again.code == 0, again.err
    assert graphrec("evaluate", str(out)).code == 0
    refused = graphrec(*line, "--out", str(tmp_path / "other"), "--select", "ndcg@10")
    assert refused.code == 2
    assert "--select none" in refused.err
    assert "random" not in refused.err, "the given split is not to be thrown away"
