"""``graphrec llm``: asked of a server on loopback, or of the catalog, into the store, and trained on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openai", reason="the extra llm is not installed")

from chat_server import Answer, serving

from graphrec.core.files import sha256_file
from graphrec.data import Dataset
from graphrec.data.attributes import with_attributes
from graphrec.features import FeatureStore
from graphrec.models.batches import EpochContext
from graphrec.models.lightgcn import LightGCN
from graphrec.testing.leaks import held_out_variants

SMALL = ("--set", "train.epochs=2", "--set", "train.device=cpu", "--set", "model.dim=8")
COLORS = ("red", "green", "blue")


@pytest.fixture
def shop(copy):
    """The generated shop with attributes, beside the plain one."""
    data = Dataset.load("shop/dataset")
    colors = [COLORS[i % 3] for i in range(data.n_items)]
    sizes = ["small" if i % 2 else "large" for i in range(data.n_items)]
    table = {"id": list(data.items.ids), "color": colors, "size": sizes}
    with_attributes(data, table, "id", ["color", "size"]).save("described")
    return data


def said(request: dict, number: int) -> Answer:
    """A model that answers everything, every fifth time badly at first."""
    task, data = (m["content"] for m in request["messages"][:2])
    if number % 5 == 3 and len(request["messages"]) == 2:
        return Answer("Certainly! <html>I would say</html>")
    if "Name the candidate" in task:
        n = len(re.findall(r"^\[\d+\]", data, flags=re.MULTILINE))
        return Answer(json.dumps({"favorite": n, "least": 1}))
    if "reference work" in task:
        return Answer(json.dumps({"color": "red", "size": None}))
    return Answer(json.dumps({"age": "30", "likes": ["war", "history"], "country": "France"}))


def test_the_catalog_fills_everything_and_asks_nobody(shop, graphrec) -> None:
    for job in ("profiles", "attributes", "preferences"):
        answer = graphrec("llm", job, "described")
        assert answer.code == 0, answer.err
    tables = FeatureStore("cache").load_tables(shop)
    assert {"profile", "attribute_color", "attribute_size", "preferences"} < set(tables)
    assert tables["profile"].entity == tables["preferences"].entity == "user"
    assert len(tables["profile"]) == shop.n_users
    assert tables["attribute_color"].dim == tables["attribute_size"].dim, "one space"
    same = tables["attribute_color"].numpy()
    assert np.allclose(same[0], same[3], atol=1e-6)
    assert same[0] @ same[1] < 0.5
    pairs = tables["preferences"].numpy(np.int64)
    users = np.arange(shop.n_users)[:, None]
    assert not shop.train.contains(users, pairs).any()
    assert (pairs[:, 0] != pairs[:, 1]).all()
    trained = graphrec("train", "llmrec", "shop/dataset", "--out", "runs/llmrec", *SMALL)
    assert trained.code == 0, trained.err
    assert "attribute_color" in trained.err
    record = json.loads(Path("runs/llmrec/run.json").read_text())
    assert set(record["features"]) >= {"profile", "preferences", "attribute_size"}
    assert graphrec("evaluate", "runs/llmrec").code == 0


def test_a_server_is_asked_once_and_what_it_said_becomes_features(shop, graphrec) -> None:
    with serving(said) as server:
        to = ("--model", "tiny", "--base-url", server.url, "--noun", "dress")
        shown = graphrec("llm", "preferences", "described", *to)
        assert shown.code == 0, shown.err
        assert re.search(r"outcomes +first try: \d+, repeated: \d+", shown.out)
        assert "markup" in shown.out
        asked = len(server.requests)
        assert asked > shop.n_users * 0.9
        again = graphrec("llm", "preferences", "described", *to)
        assert len(server.requests) == asked, "everything is known"
        assert again.code == 0
        profiles = graphrec("llm", "profiles", "described", *to, "--set", "text.size=8")
        assert profiles.code == 0, profiles.err
        attributes = graphrec("llm", "attributes", "described", *to)
        assert attributes.code == 0, attributes.err
        assert re.search(r"color +60 +60 +0\.3333", attributes.out), attributes.out
        text = json.dumps(server.requests)
    assert "dress" in text
    for one in (*shop.users.ids, *shop.items.ids):
        assert f'"{one}"' not in text, "no id leaves"
    tables = FeatureStore("cache").load_tables(shop)
    pool = tables["preferences"].numpy(np.int64)
    assert not shop.train.contains(np.arange(shop.n_users)[:, None], pool).any()
    assert tables["attribute_color"].present.all()
    offline = graphrec("llm", "profiles", "described", *to, "--replay")
    assert offline.code == 0


def test_what_is_asked_and_counted_does_not_depend_on_held_out_pairs(shop, graphrec, refused) -> None:
    """Prompts, schemas and options, byte for byte, and the tables made of equal replies."""
    requests, files = {}, {}
    for held_out, data in held_out_variants(Dataset.load("described")).items():
        data.save(held_out)
        with serving(lambda request, _: said(request, 0)) as server:
            to = (
                "--model",
                "tiny",
                "--base-url",
                server.url,
                "--concurrency",
                1,
                "--cache",
                f"{held_out}-llm",
            )
            for job in ("preferences", "profiles", "attributes"):
                for made in ("asked", "counted"):
                    store = ("--store", f"{held_out}-{made}")
                    answer = graphrec("llm", job, held_out, *store, *(to if made == "asked" else ()))
                    assert answer.code == 0, answer.err
        requests[held_out] = [json.dumps(request, sort_keys=True) for request in server.requests]
        arrays = [path for made in ("asked", "counted") for path in Path(f"{held_out}-{made}").rglob("*.npy")]
        files[held_out] = {str(path).removeprefix(held_out): sha256_file(path) for path in arrays}
    assert len(requests["own"]) > 2 * shop.n_users
    assert requests["own"] == requests["other"] == requests["no"]
    assert len(files["own"]) == 7, "asked for a size, the model gave none"
    assert files["own"] == files["other"] == files["no"]
    assert graphrec("train", "itemknn", "own", "--out", "runs/itemknn").code == 0
    assert graphrec("fit-final", "runs/itemknn", "--out", "runs/final").code == 0
    assert "runs/final" in refused("llm", "preferences", "own", "--candidates", "runs/final")


def test_a_dry_run_shows_and_asks_nothing(shop, graphrec) -> None:
    with serving(said) as server:
        to = ("--model", "tiny", "--base-url", server.url, "--price-in", "1", "--price-out", "2")
        shown = graphrec("llm", "profiles", "described", *to, "--dry-run")
        assert not server.requests
    assert shown.code == 0
    assert "History:" in shown.out
    assert re.search(r"cost at most +0\.\d+", shown.out)
    assert "profile" not in {row["field"] for row in FeatureStore("cache").status(shop)}


def test_preferences_are_added_to_the_batches_of_other_models(shop, graphrec, refused) -> None:
    told = refused("train", "lightgcn", "shop/dataset", "--out", "a", "--set", "model.augmented=0.5")
    assert "graphrec llm preferences" in told
    assert graphrec("llm", "preferences", "shop/dataset").code == 0
    for model in ("lightgcn", "freedom", "bm3", "vbpr", "lattice"):
        out = graphrec(
            "train", model, "shop/dataset", "--out", f"runs/{model}+", "--set", "model.augmented=0.5", *SMALL
        )
        assert out.code == 0, out.err
        plain = json.loads(Path(f"runs/{model}+/run.json").read_text())
        assert "preferences" in plain["features"]
    tables = FeatureStore("cache").load_tables(shop)
    model = LightGCN.build(shop, tables, LightGCN.Config(augmented=0.5))
    batch = next(model.batches(EpochContext(1, 64, 0)))
    assert len(batch.users) == 96
    assert (
        len(next(LightGCN.build(shop, tables, LightGCN.Config()).batches(EpochContext(1, 64, 0))).users) == 64
    )


def test_what_was_said_of_one_train_split_is_no_feature_of_another(shop, graphrec, refused) -> None:
    for job in ("profiles", "attributes", "preferences"):
        assert graphrec("llm", job, "described").code == 0
    shop.resplit("random", seed=5).save("other")
    told = refused("train", "lightgcn", "other", "--out", "a", "--set", "model.augmented=0.5")
    assert "graphrec llm preferences" in told
    assert graphrec("train", "llmrec", "other", "--out", "b", *SMALL).code == 0
    used = set(json.loads(Path("b/run.json").read_text())["features"])
    assert "attribute_color" in used, "attributes tell of items"
    assert not used & {"profile", "preferences"}
    Dataset.load("described").resplit("random", seed=5).save("other")
    assert graphrec("llm", "profiles", "other").code == 0
    assert graphrec("train", "llmrec", "other", "--out", "c", *SMALL).code == 0
    assert "profile" in json.loads(Path("c/run.json").read_text())["features"]


def test_written_attributes_are_modalities_of_other_models(shop, graphrec) -> None:
    assert graphrec("llm", "attributes", "described").code == 0
    for model in ("freedom", "bm3"):
        for more, expected in (("true", True), ("false", False)):
            out = graphrec("train", model, "shop/dataset", "--out", f"runs/{model}-{more}", *SMALL,
                           "--set", f"model.attributes={more}")  # fmt: skip
            assert out.code == 0, out.err
            record = json.loads(Path(f"runs/{model}-{more}/run.json").read_text())
            assert ("attribute_color" in record["features"]) == expected


def test_mistakes_are_one_line(shop, refused) -> None:
    assert "'profiles'" in refused("llm", "profils", "described")
    assert "data.attributes=true" in refused("llm", "attributes", "shop/dataset")
    assert "'color'" in refused("llm", "attributes", "described", "--names", "colr")
    assert "--names" in refused("llm", "attributes", "shop/dataset", "--model", "x")
    assert "'temperature'" in refused(
        "llm", "profiles", "described", "--model", "x", "--set", "chat.temprature=1"
    )
    assert "--base-url" in refused("llm", "profiles", "described", "--base-url", "http://localhost:1/v1")
    assert "--top 1" in refused("llm", "preferences", "described", "--top", "1")
    assert "--price-in" in refused("llm", "profiles", "described", "--model", "x", "--budget", "1")
    assert "'tfidf-svd'" in refused("llm", "profiles", "described", "--text", "tfidf")
    assert "'hog-hsv'" in refused("llm", "profiles", "described", "--text", "hog-hsv")
    gone = refused("llm", "profiles", "described", "--model", "x", "--base-url", "http://127.0.0.1:9/v1",
                   "--set", "chat.retries=0")  # fmt: skip
    assert "cannot be reached" in gone
    assert "runs/nothing" in refused("llm", "preferences", "described", "--candidates", "runs/nothing")


@pytest.fixture(scope="module")
def babbler():
    """A causal language model of random weights over bytes, which answers whatever it is asked."""
    transformers = pytest.importorskip("transformers", reason="the extra features is not installed")
    import torch

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=128, n_positions=256, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config).eval()

    def answer(request: dict, _: int) -> Answer:
        text = "\n".join(m["content"] for m in request["messages"])
        tokens = torch.tensor([[min(byte, 127) for byte in text.encode()[-100:]]])
        with torch.inference_mode():
            made = model.generate(
                tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=6, do_sample=False
            )
        return Answer("".join(chr(t) for t in made[0, tokens.shape[1] :].tolist()))

    return answer


def test_a_local_model_that_babbles_is_asked_counted_and_replaced(shop, graphrec, babbler) -> None:
    with serving(babbler) as server:
        to = ("--model", "random-gpt2", "--base-url", server.url, "--concurrency", "2")
        shown = graphrec("llm", "preferences", "described", *to, "--top", "3")
        assert shown.code == 0, shown.err
    assert re.search(r"outcomes +.*failed: \d+", shown.out)
    pairs = FeatureStore("cache").load_tables(shop)["preferences"].numpy(np.int64)
    assert not shop.train.contains(np.arange(shop.n_users)[:, None], pairs).any()
    trained = graphrec("train", "llmrec", "shop/dataset", "--out", "runs/babble", *SMALL)
    assert trained.code == 0, trained.err
