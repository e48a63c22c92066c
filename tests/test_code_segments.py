"""Source code cut in segments, each through an extractor of texts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from graphrec.core.errors import ConfigError
from graphrec.data import Content, Dataset, Interactions, Vocabulary
from graphrec.features import FeatureStore
from graphrec.features.extract import extractor
from graphrec.features.extract.code import TOKEN, CodeSegments
from graphrec.features.extract.extraction import extract

SOURCE = "def readFile(path_name):\n    return open(path_name).read()  # done\n"


@given(text=st.text(max_size=200), segments=st.integers(1, 9))
def test_segments_are_the_text_in_order_and_equally_long(text: str, segments: int) -> None:
    parts = CodeSegments(segments=segments, split_names=False).cut(text)
    assert len(parts) == segments
    first = TOKEN.search(text)
    assert "".join(parts) == (text[first.start() :] if first else "")
    counts = [len(TOKEN.findall(part)) for part in parts]
    assert max(counts) - min(counts) <= 1
    assert sum(counts) == len(TOKEN.findall(text)), "no token is cut"


def test_names_are_split_for_extractors_that_know_words() -> None:
    assert CodeSegments(segments=1).cut("readFile(HTTPServer, path_name2)")[0].split() == [
        "read", "File(HTTP", "Server,", "path", "name", "2)",
    ]  # fmt: skip
    assert CodeSegments(segments=1, split_names=False).cut("readFile")[0] == "readFile"


def test_a_vector_is_those_of_the_segments_side_by_side() -> None:
    texts = [SOURCE, SOURCE * 3, "x", "class Other:\n    pass\n" * 4]
    made = CodeSegments(segments=4, size=3, min_texts=1).fit(texts)
    found = made.encode(texts)
    assert found.shape == (4, made.dim) == (4, 12)
    assert found.dtype == np.float32
    whole = found.reshape(4, 4, 3)
    for row, text in enumerate(texts):
        for i, part in enumerate(made.cut(text)):
            expected = made.encoder.encode([part])[0] if part else np.zeros(3)
            assert np.allclose(whole[row, i], expected, atol=1e-6)
    assert not whole[2, :3].any(), "one token falls into one segment"
    assert whole[2, 3].any() or whole[2].any(axis=1).sum() <= 1


def test_it_is_extracted_and_kept_like_any_other(tmp_path) -> None:
    pairs = Interactions([0, 1], [0, 1], 2, 3)
    nothing = Interactions([], [], 2, 3)
    data = Dataset(
        "code", Vocabulary(["u0", "u1"], "user"), Vocabulary(["a", "b", "c"]), pairs, nothing, nothing,
        {"code": Content("text", [SOURCE, SOURCE.upper(), None])},
    )  # fmt: skip
    store = FeatureStore(tmp_path)
    table = extract(data, "code", extractor("code-segments", segments=2, size=4), store)
    assert table.present.tolist() == [True, True, False]
    assert table.shape[1] == 2 * (table.shape[1] // 2)
    again = extract(data, "code", extractor("code-segments", segments=2, size=4), store)
    assert np.array_equal(table.values, again.values)
    other = extract(data, "code", extractor("code-segments", segments=3, size=4), store)
    assert other.shape[1] != table.shape[1]


def test_what_cannot_be_is_said() -> None:
    for options in ({"segments": 0}, {"encoder": "hog-hsv"}):
        with pytest.raises(ConfigError, match="code-segments"):
            CodeSegments(**options)
    with pytest.raises(ConfigError, match=r"tfidf-svd.*sise"):
        extractor("code-segments", sise=3)
