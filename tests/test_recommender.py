"""The recommender: asking, making, growing."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from cold_catalog import cold_catalog
from hypothesis import given, settings, strategies as st
from tolerances import PROPAGATION, SCORE

import graphrec as gr
from graphrec.core.errors import ConfigError, DataError, FeatureError, TrainingError, UnknownIdError
from graphrec.models.freedom import FREEDOM
from graphrec.models.mf import MF
from graphrec.models.popularity import Popularity
from graphrec.serving import Recommender, exact
from graphrec.testing import communities, dataset


@pytest.fixture(scope="module")
def data():
    return communities(2, 20)[0]


@pytest.fixture(scope="module")
def rec(data) -> Recommender:
    return Recommender.from_model(MF.build(data, None, MF.Config(dim=8)), data)


@pytest.fixture(scope="module")
def cold():
    return cold_catalog()


# -- asking --------------------------------------------------------------------------------------------------


def brute_force(rec: Recommender, user: str, k: int, allowed: set[str]) -> list[str | None]:
    """Items by descending score and ascending index, in plain Python."""
    u = rec.users.index(user)
    scores = rec.item_vectors.astype(np.float64) @ rec.user_vectors[u].astype(np.float64)
    order = sorted(
        (i for i in range(len(rec.items)) if rec.items[i] in allowed), key=lambda i: (-scores[i], i)
    )
    found = [rec.items[i] for i in order[:k]]
    return found + [None] * (k - len(found))


def test_recommends_unseen_items_in_order(data, rec) -> None:
    known = data.train + data.valid + data.test
    ids, scores = rec.recommend(list(data.users), k=10)
    assert ids.shape == scores.shape == (data.n_users, 10)
    assert scores.dtype == np.float32
    for row, user in enumerate(data.users):
        seen = set(data.items.take(known.items_of(row)))
        assert list(ids[row]) == brute_force(rec, user, 10, set(data.items) - seen)
    expected = rec.user_vectors[0] @ rec.item_vectors[data.items.indices(ids[0])].T
    assert np.allclose(scores[0], expected, rtol=SCORE, atol=SCORE)


def test_filters(data, rec) -> None:
    seen = set(data.items.take((data.train + data.valid + data.test).items_of(0)))
    some, others = {f"i{i}" for i in range(0, 40, 3)}, {"i6", "i9", "i1"}
    everything = set(data.items)
    assert list(rec.recommend("u0", 12, only=some)[0]) == brute_force(rec, "u0", 12, some - seen)
    assert list(rec.recommend("u0", 8, exclude=others)[0]) == brute_force(
        rec, "u0", 8, everything - seen - others
    )
    both = rec.recommend("u0", 5, only=some, exclude=others)[0]
    assert list(both) == brute_force(rec, "u0", 5, some - seen - others)
    assert list(rec.recommend("u0", 40, exclude_seen=False)[0]) == brute_force(rec, "u0", 40, everything)
    assert list(rec.recommend("u0", 2, only="i3", exclude_seen=False)[0]) == ["i3", None]
    assert list(rec.recommend("u0", 2, only=[])[0]) == [None, None]


def test_short_lists_are_filled_with_none(data, rec) -> None:
    n_unseen = data.n_items - len((data.train + data.valid + data.test).items_of(3))
    ids, scores = rec.recommend("u3", k=60)
    assert ids.shape == (60,)
    assert [i is None for i in ids] == [rank >= n_unseen for rank in range(60)]
    assert np.array_equal(np.isneginf(scores), np.arange(60) >= n_unseen)


@pytest.mark.parametrize("block", [2**24, 40 * 16])
def test_batch_equals_single(data, rec, block: int, monkeypatch) -> None:
    monkeypatch.setattr(exact, "SCORES", block)
    ids, scores = rec.recommend(list(data.users), k=7)
    for row, user in enumerate(data.users):
        one, score = rec.recommend(user, k=7)
        assert one.shape == (7,)
        assert list(one) == list(ids[row])
        assert np.allclose(score, scores[row], rtol=SCORE, atol=SCORE)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_retrieve_equals_a_stable_sort(draw) -> None:
    b, n, d = (draw.draw(st.integers(1, top)) for top in (40, 30, 3))
    k = draw.draw(st.integers(1, n))
    rng = np.random.default_rng(draw.draw(st.integers(0, 2**32)))
    queries, keys = rng.integers(-2, 3, (b, d)), rng.integers(-2, 3, (n, d))  # whole numbers tie exactly
    scores = (queries @ keys.T).astype(np.float32)
    hidden = rng.random((b, n)) < 0.2
    scores[hidden] = -np.inf

    def mask(start: int, block: torch.Tensor) -> None:
        block[torch.from_numpy(hidden[start : start + len(block)])] = -torch.inf

    found, at = exact.retrieve(torch.from_numpy(queries).float(), torch.from_numpy(keys).float(), k, mask)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(scores, order, 1)
    assert np.array_equal(found.numpy(), best)
    assert np.array_equal(at.numpy()[best > -np.inf], order[best > -np.inf])  # hidden ones come in any order


def test_ties_go_to_the_lowest_index(data) -> None:
    flat = Recommender.from_model(
        Popularity(data.n_users, torch.ones(data.n_items), Popularity.Config()), data
    )
    ids, _ = flat.recommend("u5", k=6, exclude_seen=False)
    assert list(ids) == [f"i{i}" for i in range(6)]


def test_ids_may_be_numbers_and_come_in_any_iterable() -> None:
    frame = {"user": [7, 7, 8, 8], "item": [1, 2, 2, 3], "split": ["train"] * 4}
    data = gr.Dataset.from_frame(frame, split="split")
    rec = Recommender.from_model(MF.build(data), data)
    alone = rec.recommend(7, 2)[0]
    assert alone.shape == (2,)
    assert list(alone) == ["3", None]
    for several in ([7], (7,), np.array([7]), pl.Series(["7"]), (u for u in ["7"])):
        assert [list(row) for row in rec.recommend(several, 2)[0]] == [["3", None]]
    assert rec.recommend([], 2)[0].shape == (0, 2)


def test_unknown_ids(data, rec) -> None:
    with pytest.raises(UnknownIdError, match=r"user 'u99x' .* Did you mean"):
        rec.recommend(["u1", "u99x"])
    for option in ({"only": ["i1", "i9x"]}, {"exclude": ["i9x"]}):
        with pytest.raises(UnknownIdError, match="item 'i9x'"):
            rec.recommend("u1", **option)
    with pytest.raises(UnknownIdError, match="item 'nothing'"):
        rec.similar_items(["i1", "nothing"])
    for k in (0, -1, 2.5, True, "3"):
        with pytest.raises(ConfigError, match="k = "):
            rec.recommend("u1", k)
    with pytest.raises(ConfigError, match="popular"):
        rec.recommend("u1", unknown="popular")


def test_unknown_users_may_be_offered_what_is_popular(data, rec) -> None:
    degree = (data.train + data.valid + data.test).item_degree
    order = np.argsort(-degree, kind="stable")[:5]
    ids, scores = rec.recommend(["stranger", "u2"], 5, unknown="popularity")
    assert list(ids[0]) == data.items.take(order)
    assert np.array_equal(scores[0], degree[order])
    assert list(ids[1]) == list(rec.recommend("u2", 5)[0])
    assert "i1" not in rec.recommend("stranger", 40, unknown="popularity", exclude=["i1"])[0]


def test_seen_may_be_narrowed(data) -> None:
    rec = Recommender.from_model(MF.build(data), data, seen=data.train)
    offered = rec.recommend(list(data.users), data.n_items)[0]
    assert data.test.contains(data.test.users, data.test.items).all()
    for user, item in zip(data.test.users[:20], data.test.items[:20], strict=True):
        assert data.items[int(item)] in offered[user]


def test_similar_items(data, rec) -> None:
    unit = rec.item_vectors / np.linalg.norm(rec.item_vectors, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    order = np.argsort(-cosine, axis=1, kind="stable")[:, :6]
    ids, scores = rec.similar_items(list(data.items), 6)
    assert [list(row) for row in ids] == [data.items.take(row) for row in order]
    assert np.allclose(scores, np.take_along_axis(cosine, order, 1), atol=SCORE)
    alone, _ = rec.similar_items("i4", 60)
    assert list(alone[:6]) == list(ids[4])
    assert "i4" not in alone
    assert sum(i is None for i in alone) == 21


# -- making --------------------------------------------------------------------------------------------------


def test_of_copies_what_it_takes(data) -> None:
    model = MF.build(data)
    rec = Recommender.from_model(model, data)
    before = rec.item_vectors.copy()
    with torch.no_grad():
        model.item_embedding.weight.zero_()
    assert np.array_equal(rec.item_vectors, before)
    assert model.training
    assert rec.item_vectors.dtype == np.float32


def test_of_refuses_what_does_not_fit(data, cold) -> None:
    model = MF.build(data)
    other = dataset([(0, 0)], [], 3, 3, "toy")
    with pytest.raises(DataError, match=r"40 users x 40 items.*toy"):
        Recommender.from_model(model, other)
    with pytest.raises(DataError, match=r"^seen has 3\b"):
        Recommender.from_model(model, data, seen=other.train)
    with pytest.raises(ConfigError, match=r"Linear.*Ranker"):
        Recommender.from_model(torch.nn.Linear(1, 1), data)
    with torch.no_grad():
        model.item_embedding.weight[5, 0] = torch.nan
    with pytest.raises(TrainingError, match="item 'i5' is not finite"):
        Recommender.from_model(model, data)
    cold_data, tables, freedom = cold
    with pytest.raises(FeatureError, match=r"\['text'\] are missing"):
        Recommender.from_model(freedom, cold_data, {"image": tables["image"]})
    with pytest.raises(FeatureError, match="has 3 rows"):
        Recommender.from_model(
            freedom, cold_data, {**tables, "image": gr.FeatureTable(np.ones((3, 12), np.float32))}
        )


# -- growing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("reloaded", [False, True])
def test_added_items_are_placed_as_freedom_places_cold_items(cold, dtype, reloaded: bool, tmp_path) -> None:
    data, tables, _ = cold
    tables = {m: gr.FeatureTable(t.values.astype(dtype), t.present) for m, t in tables.items()}
    model = FREEDOM.build(data, tables, FREEDOM.Config(dim=8, knn_k=5, image_weight=0.3))
    expected = model.embed()[1].detach().numpy()
    rec = Recommender.from_model(model, data, tables)
    if reloaded:
        rec = Recommender.load(rec.save(tmp_path / "rec"))
    rows = [i for i in data.cold_items if i != 33]  # 33 has neither picture nor text
    new = [f"new-{i}" for i in rows]
    assert rec.add_items(new, {m: t.take(rows) for m, t in tables.items()}) is rec
    assert np.abs(expected[rows]).max() > 0
    scale = np.abs(expected[rows]).max()
    assert np.abs(rec.item_vectors[rec.items.indices(new)] - expected[rows]).max() <= PROPAGATION * scale
    assert np.array_equal(rec.item_vectors[: data.n_items], expected)
    # The new items can be recommended, and score what their cold twins score.
    ids, scores = rec.recommend("u1", 60)
    score = dict(zip(ids, scores, strict=True))
    for i in rows:
        assert abs(score[f"new-{i}"] - score[f"i{i}"]) <= PROPAGATION * 10
    assert rec.similar_items("new-30", 1)[0][0] == "i30"


def test_missing_content_of_added_items(cold) -> None:
    data, tables, model = cold
    image, text = tables["image"].take([30, 34]), tables["text"].take([30, 34])

    def placed(**features) -> np.ndarray:
        return Recommender.from_model(model, data, tables).add_items(["a", "b"], features).item_vectors[-2:]

    only_text = placed(text=text)
    for nothing in (None, np.full_like(image, np.nan), [None, None], np.zeros_like(image)):
        assert np.array_equal(placed(image=nothing, text=text), only_text)
    mixed = placed(image=[image[0], None], text=text)
    both = placed(image=image, text=text)
    assert np.array_equal(mixed[0], both[0])
    assert np.array_equal(mixed[1], only_text[1])
    assert not np.allclose(both, only_text)
    table = gr.FeatureTable(image)
    assert np.array_equal(placed(image=table, text=torch.from_numpy(text)), both)


def test_add_items_refuses_what_it_cannot_place(cold, rec) -> None:
    data, tables, model = cold
    grown = Recommender.from_model(model, data, tables)
    image, text = tables["image"].take([30, 31]), tables["text"].take([30, 31])
    for ids, features, error, message in [
        (["a", "i3"], {"text": text}, DataError, "'i3' is known already"),
        (["a", "a"], {"text": text}, DataError, "'a' occurs more than once"),
        (["a", "b"], {"text": image}, FeatureError, r"'text' has shape \(2, 12\); expected \(2, 7\)"),
        (["a"], {"text": text}, FeatureError, r"'text' has shape \(2, 7\); expected \(1, 7\)"),
        (["a", "b"], {"txt": text}, FeatureError, "Did you mean 'text'"),
        (["a", "b"], {"image": image}, FeatureError, "'b' has no content"),
        (["a", "b"], {}, FeatureError, "'a' has no content"),
        (["a", "b"], {"text": text * [[1], [np.inf]]}, FeatureError, "'b' holds NaN or Inf"),
        (
            ["a", "b"],
            {"text": [text[0], text[1] * [1, 1, 1, 1, 1, 1, np.nan]]},
            FeatureError,
            "'b' holds NaN",
        ),
        (["a", "b"], {"text": [[1.0], [1.0, 2.0]]}, FeatureError, "not an array of numbers"),
        (["a", "b"], {"text": 3}, FeatureError, "not an array of numbers"),
    ]:
        with pytest.raises(error, match=message):
            grown.add_items(ids, features)
        assert len(grown.items) == data.n_items == len(grown.item_vectors)
    with pytest.raises(FeatureError, match=r"\(mf\) has no rule"):
        rec.add_items(["a"], {"text": text[:1]})
    with pytest.raises(FeatureError, match="without features"):
        Recommender.from_model(model, data).add_items(["a"], {"text": text[:1]})


def test_seen_of_added_items_is_kept_apart(cold) -> None:
    """Growing the item vocabulary must not shift which pairs are seen."""
    data, tables, model = cold
    rec = Recommender.from_model(model, data, tables)
    before = rec.recommend(list(data.users), 40)[0]
    rec.add_items(["new"], {"text": tables["text"].take([35])})
    after = rec.recommend(list(data.users), 40, exclude=["new"])[0]
    assert np.array_equal(before, after)
    assert rec.seen.n_items == 41


# -- ids that are not known ----------------------------------------------------------------------------------


def test_unknown_ids_are_counted_named_and_left_out(rec):
    known = [rec.users[0], rec.users[1]]
    some = [rec.items[i] for i in range(12)]
    expected = rec.recommend(known, 4, only=some, exclude=some[:2])
    with pytest.warns(UserWarning, match="unknown ids") as warned:
        ids, scores = rec.recommend(
            [known[0], "nobody", known[1], "no one"],
            4,
            only=[*some, "lost"],
            exclude=[*some[:2], "gone"],
            strict=False,
        )
    (message,) = [str(warning.message) for warning in warned]
    assert all(
        fact in message for fact in ("2 of users", "nobody", "1 of only", "lost", "1 of exclude", "gone")
    )
    assert ids[[0, 2]].tolist() == expected[0].tolist()
    assert np.array_equal(scores[[0, 2]], expected[1])
    assert (ids[[1, 3]] == None).all()  # noqa: E711 - element by element
    assert np.isneginf(scores[[1, 3]]).all()
    assert rec.unknown_ids(["nobody", known[0], "nobody"], some) == {"users": ["nobody"]}


def test_nothing_but_unknown_items_is_an_error_without_strict_too(rec):
    with pytest.warns(UserWarning, match="lost"), pytest.raises(UnknownIdError, match="lost"):
        rec.recommend(rec.users[0], 4, only=["lost"], strict=False)
    with pytest.raises(UnknownIdError, match="gone"):
        rec.recommend(rec.users[0], 4, exclude=["gone"])


def test_one_unknown_user_gets_one_empty_row(rec):
    with pytest.warns(UserWarning, match="nobody"):
        ids, scores = rec.recommend("nobody", 3, strict=False)
    assert ids.tolist() == [None] * 3
    assert np.isneginf(scores).all()


def test_formulas_are_escaped_on_request_in_csv_alone(tmp_path):
    frame = pl.DataFrame({"user": ["+u", "+u", "v", "v"], "item": ["=1+1", "-2", "@x", "plain"]})
    data = gr.Dataset.from_frame(frame)
    made = Recommender.from_model(MF.build(data, None, MF.Config(dim=4)), data)
    made.export(tmp_path / "as-is.csv", 4, exclude_seen=False)
    made.export(tmp_path / "escaped.csv", 4, exclude_seen=False, escape_formulas=True)
    plain = pl.read_csv(tmp_path / "as-is.csv")
    escaped = pl.read_csv(tmp_path / "escaped.csv")
    assert set(plain["item"]) == {"=1+1", "-2", "@x", "plain"}
    assert set(escaped["item"]) == {"'=1+1", "'-2", "'@x", "plain"}
    assert set(escaped["user"]) == {"'+u", "v"}
    with pytest.raises(ConfigError, match="csv"):
        made.export(tmp_path / "a.parquet", 4, escape_formulas=True)
