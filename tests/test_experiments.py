"""The experiment scripts: typed settings, equal budgets, recorded results from which the tables are made."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import graphrec as gr
from experiments import llm_augmentation, paper_claims, tables, train_from_scratch
from experiments.harness import CONTROLS, SELECT, Experiment, Study, arguments, run, seconds_to_share
from experiments.recording import read_result, write_result
from experiments.rendering import about, details, table
from experiments.rows import MULTIMODAL, NAMES, checks, defaults, in_turn, settled
from graphrec.core.errors import CheckpointError, ConfigError
from graphrec.data.generated import generated_options, write_catalog
from graphrec.features import FeatureTable
from graphrec.models import MODELS, model
from graphrec.testing import communities
from graphrec.training import checkpoint

ROOT = Path(__file__).parent.parent
SCRIPTS = ("amazon_baby", "amazon_scientific", "amazon_sports", "movielens_small", "xwines")
TRAIN = gr.TrainConfig(batch_size=256, epochs=4, progress=False)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A small experiment with everything in it, run once."""
    data, features = communities(2, 20)
    data = data.resplit("random")
    labels = ("Popularity", "ContentEASE", "LightGCN", "FREEDOM")
    rows = [r for r in defaults(TRAIN) if r.label in labels]
    extra, pairs = checks(rows)
    turn, rivals = in_turn(rows)
    out = tmp_path_factory.mktemp("experiments")
    warm = Experiment(
        "toy", "python -m toy", data, features, [*rows, *extra, *turn], range(2), "LightGCN", 2, pairs, rivals
    )
    cold = Experiment(
        "toy_cold", "python -m toy", data.resplit("cold-items"), features, rows, range(2), "LightGCN",
        tuned_as=warm,
    )  # fmt: skip
    options = arguments("").parse_args(["--out", str(out), "--quick", "--seeds", "0", "1"])
    return warm, cold, options, run(warm, options), run(cold, options)


def test_all_models_are_in_the_tables() -> None:
    elsewhere = {"fm", "scpr", "coder", "cochange", "directory", "llmrec"}  # tables of their own
    assert set(NAMES.values()) == set(MODELS) - elsewhere
    assert set(MULTIMODAL) == {label for label, name in NAMES.items() if model(name).modalities}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_has_typed_settings_and_says_what_it_does(script: str) -> None:
    module = importlib.import_module(f"experiments.{script}")
    assert f"python -m experiments.{script}" == module.COMMAND
    assert module.COMMAND in module.__doc__
    assert "--quick" in module.__doc__
    assert [row.label for row in module.ROWS] == list(NAMES)
    for row in module.ROWS:
        assert type(row.config) is model(row.model).Config
        assert isinstance(row.train, gr.TrainConfig)
    result = subprocess.run(
        [sys.executable, "-m", f"experiments.{script}", "--help"], capture_output=True, text=True, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr
    assert "--quick" in result.stdout


def test_every_model_gets_the_same_number_of_trials(done) -> None:
    rows = done[3]["rows"]
    assert len(rows["LightGCN"]["trials"]) == len(rows["FREEDOM"]["trials"]) == 2
    best = max(t["value"] for t in rows["FREEDOM"]["trials"])
    chosen = next(t["options"] for t in rows["FREEDOM"]["trials"] if t["value"] == best)
    assert chosen.items() <= rows["FREEDOM"]["options"].items()
    assert not rows["FREEDOM, shuffled"]["trials"]
    assert rows["FREEDOM, shuffled"]["options"] == rows["FREEDOM"]["options"]
    assert rows["FREEDOM, no denoising"]["options"] == {**rows["FREEDOM"]["options"], "dropout": 0.0}


def test_content_ease_is_tested_against_trained_models_in_recall_and_ndcg(done) -> None:
    result = done[3]
    found = [(c["model"], c["baseline"], c["metric"]) for c in result["rivals"]]
    assert found == [
        ("ContentEASE", "LightGCN", "ndcg@20"),  # its recall is among the comparisons with the baseline
        ("ContentEASE", "FREEDOM", "recall@20"),
        ("ContentEASE", "FREEDOM", "ndcg@20"),
        *(
            ("ContentEASE, in turn", rival, metric)
            for rival in ("LightGCN", "FREEDOM")
            for metric in ("recall@20", "ndcg@20")
        ),
    ]
    runs = {label: result["rows"][label]["runs"] for label in ("ContentEASE", "FREEDOM")}
    for c in result["rivals"][1:3]:
        means = {label: np.mean([run["test"][c["metric"]] for run in of]) for label, of in runs.items()}
        assert c["difference"] == pytest.approx(means["ContentEASE"] - means["FREEDOM"], abs=1e-7)


def test_a_model_in_turn_changes_one_option_of_its_best_trial(done) -> None:
    first, second = done[3]["rows"]["ContentEASE, in turn"]["trials"]
    changed = [name for name in first["options"] if first["options"][name] != second["options"][name]]
    assert changed == ["image_weight"]


def test_every_trial_keeps_its_metrics_by_epoch(done) -> None:
    _, _, options, result, _ = done
    study = options.out / "quick" / "toy" / "tuning" / "FREEDOM"
    for number, trial in enumerate(result["rows"]["FREEDOM"]["trials"]):
        lines = (study / f"trial-{number:04d}" / "metrics.jsonl").read_text().splitlines()
        values = [json.loads(line)["recall@20"] for line in lines]
        assert len(values) == trial["epochs"] == 1
        assert trial["value"] in values


def test_what_is_recorded_is_what_evaluating_gives(done) -> None:
    warm, _, options, result, _ = done
    facts = result["rows"]["FREEDOM"]["runs"][1]
    folder = options.out / "quick" / "toy" / "FREEDOM" / "seed-1"
    options_ = result["rows"]["FREEDOM"]["options"]
    own = {k: v for k, v in options_.items() if not k.startswith("train.")}
    freedom = gr.models.FREEDOM.build(warm.data, warm.features, gr.models.FREEDOM.Config(**own, seed=1))
    checkpoint.read(folder / "best", freedom)
    some = warm.data.test.where(warm.data.test.users % 8 == 0)  # as it was to be quick
    report = gr.evaluate(freedom, some, seen=warm.data.train, k=(10, 20))
    assert facts["test"]["recall@20"] == report.mean()["recall@20"]
    assert facts["best_epoch"] >= 1


def test_a_finished_experiment_is_read_back(done) -> None:
    warm, _, options, result, _ = done
    before = {p: p.stat().st_mtime_ns for p in (options.out / "quick").rglob("facts.json")}
    again = run(warm, options)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert {k: v for k, v in again.items() if k != "environment"} == {
        k: v for k, v in result.items() if k != "environment"
    }


def test_rows_put_into_a_record_replace_their_values_and_comparisons(done, tmp_path) -> None:
    """The record of another machine: two rows are other numbers there, as are all comparisons of FREEDOM."""
    warm, _, _, result, _ = done
    path = tmp_path / "quick" / "toy.json"
    other = json.loads(json.dumps(result))
    for label in ("FREEDOM", "FREEDOM, shuffled"):
        for facts in other["rows"][label]["runs"]:
            facts["test"]["recall@20"] += 0.01
    for comparison in (*other["comparisons"], *other["pairs"]):
        comparison["difference"] += 0.01
    write_result(path, other)
    given = ["--out", str(tmp_path), "--quick", "--seeds", "0", "1", "--update", "--rows"]
    update = arguments("").parse_args([*given, "LightGCN", "FREEDOM", "FREEDOM, shuffled"])
    with pytest.raises(ConfigError, match="'FREEDOM' came out otherwise") as refused:
        run(warm, update)
    assert "name both" in str(refused.value)
    checks = [label for label in result["order"] if label != "Popularity"]
    renewed = run(warm, arguments("").parse_args([*given, *checks]))
    values = {label: [r["test"]["recall@20"] for r in row["runs"]] for label, row in result["rows"].items()}
    assert {
        label: [r["test"]["recall@20"] for r in row["runs"]] for label, row in renewed["rows"].items()
    } == values
    assert renewed["order"] == result["order"]
    for kind in ("comparisons", "pairs"):
        for new, before in zip(renewed[kind], result[kind], strict=True):
            same = "Popularity" not in (new["model"], new["baseline"])
            assert new["difference"] == pytest.approx(before["difference"] + (0 if same else 0.01))
    assert renewed["rows"]["FREEDOM"]["options"] == result["rows"]["FREEDOM"]["options"], "not tuned again"


def test_a_new_row_is_put_into_a_record_where_the_table_has_it(done, tmp_path) -> None:
    warm, _, _, result, _ = done
    other = json.loads(json.dumps(result))
    for label in ("Popularity", "FREEDOM"):
        del other["rows"][label]
        other["order"].remove(label)
    other["comparisons"] = [c for c in other["comparisons"] if c["model"] not in ("Popularity", "FREEDOM")]
    other["pairs"] = [c for c in other["pairs"] if c["model"] != "FREEDOM"]
    other["rivals"] = [c for c in other["rivals"] if c["baseline"] != "FREEDOM"]
    write_result(tmp_path / "quick" / "toy.json", other)
    given = ["--out", str(tmp_path), "--quick", "--seeds", "0", "1", "--update", "--rows"]
    with pytest.raises(ConfigError, match=r"'Popularity' is new .* 'LightGCN'"):
        run(warm, arguments("").parse_args([*given, "Popularity"]))
    checks = [label for label, row in result["rows"].items() if row["like"] == "FREEDOM"]
    rows = ["Popularity", "ContentEASE", "ContentEASE, in turn", "LightGCN", "FREEDOM", *checks]
    renewed = run(warm, arguments("").parse_args([*given, *rows]))
    assert renewed["order"] == result["order"]
    assert set(renewed["rows"]) == set(result["rows"])
    for kind in ("comparisons", "pairs", "rivals"):
        expected = {(c["model"], c["baseline"], c["metric"]): c["difference"] for c in result[kind]}
        found = {(c["model"], c["baseline"], c["metric"]): c["difference"] for c in renewed[kind]}
        assert found == pytest.approx(expected)
    assert renewed["defaults"] == result["defaults"]


def test_a_table_without_the_rows_that_are_named_stays_as_it_is(done, tmp_path) -> None:
    warm, _, _, result, _ = done
    path = tmp_path / "quick" / "toy.json"
    write_result(path, result)
    before = path.read_bytes()
    given = ["--out", str(tmp_path), "--quick", "--update", "--rows", "LLMRec"]
    assert run(warm, arguments("").parse_args(given)) is None
    assert path.read_bytes() == before


def test_rows_are_recorded_where_nothing_is_recorded(done, tmp_path) -> None:
    warm, _, _, result, _ = done
    rows = ["Popularity", "LightGCN", "ContentEASE", "FREEDOM"]
    given = ["--out", str(tmp_path), "--quick", "--seeds", "0", "1", "--update", "--rows", *rows]
    assert run(warm, arguments("").parse_args([*given, "--tables", "another"])) is None
    path = tmp_path / "quick" / "toy.json"
    assert not path.exists()
    recorded = run(warm, arguments("").parse_args([*given, "--tables", "toy"]))
    assert recorded == read_result(path)
    assert recorded["order"] == [label for label in result["order"] if label in rows]
    for kind in ("comparisons", "rivals"):
        expected = [c for c in result[kind] if {c["model"], c["baseline"]} <= set(rows)]
        assert expected
        assert [(c["model"], c["baseline"], c["metric"]) for c in recorded[kind]] == [
            (c["model"], c["baseline"], c["metric"]) for c in expected
        ]
    assert recorded["pairs"] == []


def test_a_new_row_of_a_cold_split_takes_the_options_recorded_for_the_warm_one(done, tmp_path) -> None:
    _, cold, _, warm_result, result = done
    warm_record, record = (json.loads(json.dumps(r)) for r in (warm_result, result))
    warm_record["rows"]["FREEDOM"]["options"] = {"dropout": 0.25}
    del record["rows"]["FREEDOM"]
    record["order"].remove("FREEDOM")
    record["comparisons"] = [c for c in record["comparisons"] if c["model"] != "FREEDOM"]
    write_result(tmp_path / "quick" / "toy.json", warm_record)
    write_result(tmp_path / "quick" / "toy_cold.json", record)
    given = ["--out", str(tmp_path), "--quick", "--seeds", "0", "1", "--update", "--rows"]
    renewed = run(cold, arguments("").parse_args([*given, "FREEDOM", "LightGCN"]))
    assert renewed["rows"]["FREEDOM"]["options"] == {"dropout": 0.25}
    assert renewed["order"] == result["order"]


def test_seconds_until_a_share_of_the_best_validation_is_reached() -> None:
    seconds, values = [1.0, 2.0, 4.0, 8.0], [0.1, 0.198, 0.2, 0.15]
    history = [{"seconds": s, SELECT: v} for s, v in zip(seconds, values, strict=True)]
    trained = gr.Run(None, history, best_epoch=3, best_value=0.2)
    assert seconds_to_share(trained, wall=15.5) == 0.5 + 1 + 2
    assert seconds_to_share(trained, wall=15.5, share=1.0) == 0.5 + 1 + 2 + 4
    assert seconds_to_share(trained, wall=3.0) is None, "it was resumed"
    closed_form = gr.Run(None, [{"epoch": 0, "seconds": 0.0, SELECT: 0.2}], best_epoch=0, best_value=0.2)
    assert seconds_to_share(closed_form, wall=3.0) == 3.0


def test_a_control_that_keeps_ties_keeps_which_items_are_equal() -> None:
    rng = np.random.default_rng(0)
    distinct = rng.normal(size=(5, 3)).astype(np.float32)
    group = rng.integers(0, 5, 40)
    present = np.arange(40) != 7
    table = FeatureTable(np.where(present[:, None], distinct[group], 0), present, {"field": "attribute_type"})
    tied = CONTROLS["tied"](table, "attribute_type")
    values = tied.numpy()
    assert np.array_equal(tied.present, present)
    same = (values[:, None] == values[None]).all(2)[present][:, present]
    assert np.array_equal(same, (group[:, None] == group)[present][:, present])
    assert {tuple(v) for v in values[present]} == {tuple(v) for v in distinct}
    assert not np.array_equal(values, table.numpy())


def test_other_options_do_not_pass_for_a_finished_row(done) -> None:
    warm, _, options, _, _ = done
    rows = [
        r for r in settled(TRAIN, lightgcn=gr.models.LightGCN.Config(n_layers=1)) if r.model == "lightgcn"
    ]
    other = Experiment("toy", "python -m toy", warm.data, warm.features, rows, range(2), "LightGCN")
    with pytest.raises(CheckpointError, match="other data, features or options"):
        run(other, options)


def test_a_cold_split_takes_the_options_and_shows_warm_and_cold(done) -> None:
    _, _, _, warm, cold = done
    assert cold["tuned_on"] == "toy"
    assert cold["rows"]["FREEDOM"]["options"] == warm["rows"]["FREEDOM"]["options"]
    text = table(cold)
    assert "cold among cold R@20" in text.splitlines()[0]
    assert cold["rows"]["FREEDOM"]["supports_cold_items"]
    assert not cold["rows"]["LightGCN"]["supports_cold_items"]
    lines = {line.split("|")[1].strip(): line for line in text.splitlines()[2:]}
    assert lines["FREEDOM"].endswith("| yes |")
    assert lines["LightGCN"].endswith("| no |")
    assert "those of toy" in about(cold)


def test_tables_mark_the_best_and_count_the_seeds(done) -> None:
    result = done[3]
    means = {
        label: np.mean([r["test"]["recall@20"] for r in row["runs"]])
        for label, row in result["rows"].items()
        if row["group"] == "main"
    }
    best = max(means, key=means.__getitem__)
    line = next(line for line in table(result).splitlines() if line.startswith(f"| {best} |"))
    assert f"**{means[best]:.4f} ± " in line
    assert "2 trials a model" in about(result)
    assert "over 2 seeds" in about(result)
    assert "FREEDOM, shuffled" in details(result)


def test_claims_compare_the_model_with_its_check(done) -> None:
    text = paper_claims.checks({"toy": done[3]}, "shuffled")
    pair = next(p for p in done[3]["pairs"] if p["baseline"] == "FREEDOM, shuffled")
    assert pair["model"] == "FREEDOM"
    assert f"{pair['relative']:+.1%}" in text
    assert len(text.splitlines()) == 4, "two headlines, ContentEASE and FREEDOM"
    assert len(paper_claims.checks({"toy": done[3]}, "parts").splitlines()) == 5
    assert len(paper_claims.time(done[3]).splitlines()) == 4


def test_augmented_rows_stand_after_the_rows_whose_options_they_take() -> None:
    main = defaults(TRAIN)
    fields = ["image", "text", "attribute_size", "profile", "preferences"]
    for on in (None, {"augmented": 0.1}):
        rows = llm_augmentation.rows_of(main, TRAIN, fields, on)
        labels = [row.label for row in rows]
        assert len(set(labels)) == len(labels)
        for place, row in enumerate(rows):
            assert row.like is None or row.like in labels[:place]
            assert set(row.features or fields) <= set(fields)
        base = "LLMRec, everything on" if on else "LLMRec"
        pairs = llm_augmentation.pairs_of(rows)
        assert (base, "LLMRec, noise profiles") in pairs
        assert ("FREEDOM + attributes", "FREEDOM") in pairs
        assert all({a, b} <= set(labels) for a, b in pairs)


def test_a_row_gets_what_its_options_ask_for_and_controls_replace_it(tmp_path) -> None:
    data, features = communities(2, 20)
    profile = FeatureTable.from_array(np.eye(data.n_users, dtype=np.float32), data, "profile", entity="user")
    features = {**features, "profile": profile, "preferences": profile, "attribute_size": features["text"]}
    rows = {row.label: row for row in llm_augmentation.rows_of(defaults(TRAIN), TRAIN, list(features), None)}
    study = Study(Experiment("toy", "", data, features, list(rows.values()), [0], ""), tmp_path, False)

    def given(label: str, **options) -> set[str]:
        return set(study.given(rows[label], model(rows[label].model).Config(**options)))

    assert given("LightGCN") == set()
    assert given("LightGCN + preferences", augmented=0.1) == {"preferences"}
    assert given("FREEDOM") == {"image", "text"}
    assert given("FREEDOM + attributes", attributes=True) == {"image", "text", "attribute_size"}
    assert given("LLMRec") == set(features)
    assert given("LLMRec, nothing said") == {"image", "text"}
    assert given("LLMRec without profiles") == set(features) - {"profile"}
    config = model("llmrec").Config()
    noise = study.given(rows["LLMRec, noise profiles"], config)["profile"]
    others = study.given(rows["LLMRec, shuffled profiles"], config)["profile"]
    assert noise.entity == others.entity == "user"
    assert np.allclose(np.linalg.norm(noise.numpy(), axis=1), 1)
    assert (np.sort(others.numpy(), 0) == np.sort(profile.numpy(), 0)).all()
    assert not (others.numpy() == profile.numpy()).all()


def test_pages_are_rewritten_between_markers_only() -> None:
    page = "a\n<!-- table: nothing x -->\n<!-- end -->\nb"
    with pytest.raises(ValueError, match="expected one of"):
        tables.rewritten(page)
    with pytest.raises(ValueError, match="is not recorded"):
        tables.rewritten(page.replace("nothing x", "main no_such_result"))
    assert tables.rewritten("no marker") == "no marker"


@pytest.mark.parametrize("name", ["lightgcn", "freedom"])
def test_training_from_scratch_reaches_what_the_trainer_reaches(name: str, tmp_path) -> None:
    shop = write_catalog(tmp_path / "shop", n_items=80, n_users=150, seed=0)
    data = gr.load_dataset("table", shop, **{**generated_options(), "split": "random"})
    store = gr.FeatureStore(tmp_path / "cache")
    gr.extract(data, "image", gr.extractor("hog-hsv"), store)
    gr.extract(data, "text", gr.extractor("tfidf-svd"), store)
    features = store.load_tables(data) if name == "freedom" else None
    losses, metrics = train_from_scratch.train(data, name, 6, features)

    cls = model(name)
    config = cls.Config(dim=train_from_scratch.DIM, seed=train_from_scratch.SEED)
    settings = gr.TrainConfig(
        epochs=6, batch_size=train_from_scratch.BATCH_SIZE, learning_rate=train_from_scratch.LEARNING_RATE,
        seed=train_from_scratch.SEED, patience=None, device="cpu", progress=False,
    )  # fmt: skip
    run = gr.Trainer(settings).fit(cls.build(data, features, config))
    theirs = [sum(v for k, v in epoch.items() if k.startswith("loss/")) for epoch in run.history]
    assert losses == pytest.approx(theirs, rel=1e-4)
    assert losses[-1] < losses[0]
    report = gr.evaluate(run.model, data.test, seen=data.train + data.valid, k=(20,)).mean()
    assert metrics["recall@20"] == pytest.approx(report["recall@20"], abs=0.01)
    assert metrics["ndcg@20"] == pytest.approx(report["ndcg@20"], abs=0.01)


def test_rates_without_wrong_answers_stand_beside_those_with_some() -> None:
    """In the text about LastFM: each noise-free rate of the posterior with the rate at 5 % wrong answers."""
    result = tables.recorded("lastfm")
    noisy = {row["policy"]: row["sr@15"][1] for row in result["noise"]}
    page = (Path(__file__).parent.parent / "docs" / "results" / "conversations.md").read_text()
    text = " ".join(line.strip() for line in page.splitlines() if not line.startswith("|"))
    for policy in ("SCPR, posterior", "posterior, recommend-when-sure:30", "SCPR"):
        free = np.mean([run["mean"]["sr@15"] for run in result["rows"][policy]["runs"]])
        before, found, after = text.partition(f" {free:.3f} ")
        assert found, policy
        assert f"{noisy[policy]:.3f}" in after[:60], policy
        assert f"{free:.3f}" not in before + after, "nowhere alone"
