"""Odd texts: every one gets a vector, or is counted with a reason."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoders import sentence_encoder

from graphrec.core.errors import ConfigError, DataError, FeatureError
from graphrec.data import Content, Dataset, Interactions, Vocabulary
from graphrec.features import FeatureStore, extract as features
from graphrec.features.extract.extraction import extract

WORDS = ["red", "lamp", "wooden", "chair"]
SLOWEST = 30.0  # seconds of processor; a million characters take two on an idle machine

# What is written about an item, and whether TF-IDF finds a word in it.
TEXTS: dict[str, tuple[str, bool]] = {
    "one letter": ("a", True),
    "a million characters": ("red lamp " * 111_112, True),
    "one word of a million letters": ("a" * 10**6, True),
    "a million dots": ("." * 10**6, False),
    "10,000 words": ("red " * 10_000, True),
    "10,000 different words": (" ".join(f"w{i}" for i in range(10_000)), True),
    "lone high surrogate": ("red \ud800 lamp", True),
    "lone low surrogate": ("red \udc00 lamp", True),
    "surrogates in the wrong order": ("red \udc00\ud800 lamp", True),
    "surrogate pair": ("red \ud83d\ude00 lamp", True),
    "nothing but a surrogate": ("\udfff", False),
    "control characters": ("red\x01\x02\x7f\x85 lamp", True),
    "escape codes": ("\x1b[31mred\x1b[0m lamp", True),
    "NUL": ("red\0lamp", True),
    "right to left": ("\u202ered שלום\u202c", True),
    "joined emoji": ("👩\u200d👩\u200d👧 red", True),
    "nothing but emoji": ("😀😀", False),
    "nothing but punctuation": ("?!...", False),
    "zero width": ("\u200b\u200d\ufeff", False),
    "stop words": ("the of and", True),
    "combining marks": ("e" + "\u0301" * 100_000, True),
    "digits": ("0123", True),
    "HTML": ("<b>red</b>&nbsp;<script>lamp</script>", True),
    "special tokens": ("[CLS] [SEP] [PAD] [MASK]", True),
    "noncharacters": ("\ufffe\uffff red", True),
    "CJK": ("红色的灯", True),
}
SILENT: dict[str, str] = {
    "empty": "",
    "blank": "   ",
    "line breaks": "\n\r\n\t",
    "odd blanks": "\u00a0\u2003\u3000\u2028",
}


def shop(values: list[str | None]) -> Dataset:
    n = len(values)
    none, pairs = (Interactions(np.arange(m), np.arange(m), n, n) for m in (0, n))
    users, items = (Vocabulary((f"{kind}{i}" for i in range(n)), kind) for kind in ("user", "item"))
    return Dataset("shop", users, items, pairs, none, none, content={"text": Content("text", values)})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved sentence encoder of one layer and 32 positions."""
    return sentence_encoder(tmp_path_factory.mktemp("models"), WORDS)


def extracted(values: list[str | None], root: Path, name: str = "tfidf-svd", **options: Any) -> Any:
    return extract(shop(values), "text", features.extractor(name, **options), FeatureStore(root))


@pytest.mark.parametrize("case", TEXTS)
def test_tfidf_takes_any_text(case: str, tmp_path: Path) -> None:
    text, known = TEXTS[case]
    begun = time.process_time()
    table = extracted(["red lamp", text, "wooden chair"], tmp_path)
    assert time.process_time() - begun < SLOWEST
    assert table.present.tolist() == [True, known, True]
    lengths = np.linalg.norm(table.numpy(), axis=1)
    assert np.allclose(lengths, table.present, atol=1e-5)
    reasons = {} if known else {"item1": "no word of the text is in the vocabulary"}
    assert table.meta["empty"]["reasons"] == reasons
    assert table.meta["unreadable"]["count"] == 0


@pytest.mark.parametrize("case", TEXTS)
def test_sentence_encoders_take_any_text(case: str, tiny: Path, tmp_path: Path) -> None:
    begun = time.process_time()
    table = extracted(["red lamp", TEXTS[case][0]], tmp_path, "sentence-transformers", model=tiny)
    assert time.process_time() - begun < SLOWEST
    assert table.present.all()
    assert np.isfinite(table.numpy()).all()
    alone = extracted(["red lamp", "chair"], tmp_path / "alone", "sentence-transformers", model=tiny)
    assert np.allclose(table.take([0]), alone.take([0]), atol=1e-5), "a text changes no other's vector"


def test_halves_of_a_surrogate_pair_are_one_character(tiny: Path) -> None:
    encoder = features.extractor("sentence-transformers", model=tiny)
    split, whole = encoder.encode(["red \ud83d\ude00 lamp", "red 😀 lamp"])
    assert np.array_equal(split, whole)


@pytest.mark.parametrize("case", SILENT)
def test_a_text_that_says_nothing_is_missing(case: str, tmp_path: Path) -> None:
    table = extracted(["red lamp", SILENT[case], "wooden chair", None], tmp_path)
    assert table.present.tolist() == [True, False, True, False]
    assert table.meta["empty"]["count"] == table.meta["unreadable"]["count"] == 0


CORPORA: dict[str, tuple[list[str | None], int]] = {
    "one text": (["red lamp"], 1),
    "one word": (["red"], 1),
    "one word five times": (["red"] * 5, 5),
    "all equal": (["red lamp"] * 30, 30),
    "fewer texts than dimensions": (["red lamp", "wooden chair"], 2),
    "one text among none": ([None, "red", None], 1),
    "one word among symbols": (["red", "!", "?"], 1),
    "twenty texts that share one word": ([f"w{i} red" for i in range(20)], 20),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", CORPORA)
def test_tfidf_takes_any_corpus_with_a_word(case: str, tmp_path: Path) -> None:
    values, present = CORPORA[case]
    table = extracted(values, tmp_path)
    assert table.present.sum() == present
    assert np.allclose(np.linalg.norm(table.numpy()[table.present], axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("values", [["!", "?"], ["😀"], [f"w{i}" for i in range(30)]])
def test_a_corpus_without_a_shared_word_is_an_error(
    values: list[str | None], tmp_path: Path, refused: Any
) -> None:
    with pytest.raises(FeatureError, match=rf"{len(values)} texts.*min_texts"):
        extracted(values, tmp_path / "s")
    shop(values).save(tmp_path / "saved")
    assert f"{len(values)} texts" in refused("features", "build", "saved")


def test_no_text_at_all_is_an_error(tmp_path: Path, refused: Any) -> None:
    shop([None, " ", ""]).save(tmp_path / "saved")
    assert "'text'" in refused("features", "build", "saved")


def test_texts_without_a_vector_are_listed(tmp_path: Path, graphrec: Any) -> None:
    shop(["red lamp", "😀\x1b[;" + "!" * 500, "wooden chair"]).save(tmp_path / "saved")
    answer = graphrec("features", "build", "saved")
    assert answer.code == 0, answer
    assert any("text: 1 items" in line and "item1" in line for line in answer.out.splitlines())
    assert "graphrec features broken " in answer.err
    for form in ([], ["--csv"]):
        listed = graphrec("features", "broken", "saved", *form)
        assert listed.code == 0, listed
        assert "item1" in listed.out
        assert "no word of the text is in the vocabulary" in listed.out
        assert r"😀\x1b[;!!!" in listed.out, "a terminal must not obey it"


@pytest.mark.parametrize("value", [5, 1.5, b"red", ["red"], float("nan")])
def test_what_is_no_text_is_refused_with_its_row(value: Any) -> None:
    with pytest.raises(DataError, match="row 1"):
        Content("text", ["red", value])


def test_more_tokens_than_positions_are_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"33.*'tiny'.* 32 "):
        extracted(["red " * 500], tmp_path, "sentence-transformers", model=tiny, max_seq_length=33)
    table = extracted(["red " * 500], tmp_path, "sentence-transformers", model=tiny, max_seq_length=32)
    assert table.present.all()
