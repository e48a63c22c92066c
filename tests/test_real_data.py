"""The main job on real data: CLIP vectors in, FREEDOM trained, evaluated, saved, recommendations out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import graphrec as gr
from graphrec.data.readers import load_features


def test_freedom_on_real_clip_vectors(real_data: Path, tmp_path: Path) -> None:
    data = gr.load_dataset("amazon-scientific", root=real_data)
    ready = load_features("amazon-scientific", real_data)
    tables = {f: gr.FeatureTable.from_array(r.values, data, f, ids=r.ids) for f, r in ready.items()}
    assert all(t.present.all() for t in tables.values())
    config = gr.TrainConfig(epochs=12, batch_size=512, learning_rate=5e-3, device="cpu", progress=False)
    task = gr.RankingTask(data.valid, seen=data.train)
    run = gr.Trainer(config, out=tmp_path / "run").fit(
        gr.models.FREEDOM.build(data, tables), task, "recall@20"
    )
    report = gr.evaluate(run.model, data.test, seen=data.train)
    floor = gr.evaluate(gr.models.Popularity.build(data), data.test, seen=data.train)
    found = report.compare(floor, "recall@20")
    assert found.difference > 0
    assert found.p < 0.001
    gr.Recommender.from_model(run.model, data, tables).save(tmp_path / "recommender")
    served = gr.Recommender.load(tmp_path / "recommender")
    users = data.users[:50]
    ids, scores = served.recommend(users, k=10)
    known = data.train + data.valid + data.test
    assert not known.contains(np.arange(50)[:, None], data.items.indices(ids.ravel()).reshape(50, 10)).any()
    assert (np.diff(scores, axis=1) <= 0).all()
