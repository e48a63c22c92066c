"""Datasets and feature tables as small HTML tables in notebooks."""

from __future__ import annotations

import html.parser

import numpy as np
import pytest

import graphrec as gr
from graphrec.core.html_table import html_table
from graphrec.testing import communities


def cells(text: str) -> list[str]:
    """The texts of all cells, as a browser shows them."""
    found: list[str] = []

    class Reader(html.parser.HTMLParser):
        def handle_data(self, data: str) -> None:
            if data.strip():
                found.append(data)

    Reader().feed(text)
    return found


def dataset() -> gr.Dataset:
    users, items = ["a", "a", "a", "b", "b", "c"], ["<b>", "i2", "i3", "<b>", "i2", "<b>"]
    data = gr.Dataset.from_frame(
        {"user": users, "item": items, "split": [0, 1, 2, 0, 0, 0]}, split="split", name="<script>shop"
    )
    return data.with_content(text=gr.data.Content("text", ["one", None, "three"]))


def test_dataset_shows_counts_splits_and_coverage() -> None:
    data = dataset()
    text = data._repr_html_()
    shown = cells(text)
    assert "<script>" not in text
    assert shown[0] == "Dataset <script>shop"
    values = dict(zip(shown[1::2], shown[2::2], strict=True))
    assert (values["users"], values["items"], values["interactions"]) == ("3", "3", "6")
    assert (values["train"], values["valid"], values["test"]) == ("4", "1", "1")
    assert values["items with text"] == "2"


def test_feature_table_shows_shape_extractor_and_missing() -> None:
    vectors = np.ones((3, 5), dtype=np.float32)
    vectors[1] = 0
    table = gr.FeatureTable.from_array(vectors, dataset(), "text", name="<i>mine")
    shown = cells(table._repr_html_())
    values = dict(zip(shown[1::2], shown[2::2], strict=True))
    assert shown[0] == "FeatureTable text"
    assert (values["items"], values["dimensions"], values["missing"]) == ("3", "5", "1")
    assert values["extractor"] == "imported"


def test_everything_is_escaped() -> None:
    text = html_table("<a>", {"<b>": ("<c>", 1234, 0.5)}, header=["<d>"])
    assert cells(text) == ["<a>", "<d>", "<b>", "<c>", "1,234", "0.5"]
    assert not any(tag in text for tag in ("<a>", "<b>", "<c>", "<d>"))


def test_run_shows_epochs_and_the_metrics_of_the_best_one(tmp_path) -> None:
    data, _ = communities(2, 20)
    model = gr.models.MF.build(data)
    config = gr.TrainConfig(epochs=2, batch_size=64, device="cpu", progress=False)
    run = gr.Trainer(config, tmp_path).fit(model, gr.RankingTask(data.test, seen=data.train), "recall@20")
    shown = cells(run._repr_html_())
    values = dict(zip(shown[1::2], shown[2::2], strict=True))
    assert shown[0] == "Run of mf"
    assert (values["epochs"], values["best epoch"]) == ("2", str(run.best_epoch))
    assert float(values["recall@20"]) == pytest.approx(run.best_value, rel=1e-3)
    assert values["run directory"] == str(tmp_path)
