"""Checks that a model learns, repeats, resumes, saves, answers queries and copes with missing data."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphrec.core.errors import ConfigError
from graphrec.core.random import numpy_rng
from graphrec.data.dataset import Dataset
from graphrec.data.query import Histories, Query
from graphrec.features import FeatureTable
from graphrec.graphs.graph import Graph
from graphrec.models.base import Features, Model, ModelConfig, Ranker
from graphrec.models.batches import EpochContext
from graphrec.models.capabilities import CAPABILITIES
from graphrec.models.train_config import TrainConfig
from graphrec.testing.datasets import (
    checkerboard,
    communities,
    dataset,
    features_of,
    fixtures,
    select_features,
    with_decoys,
)
from graphrec.testing.repetition import differing_names, owner, sources_of_randomness
from graphrec.training import checkpoint
from graphrec.training.trainer import Trainer

SCORE_TOLERANCE = 1e-6  # relative; float32 sums of one row and of many rows may differ in order
LEARNING_EPOCHS = (10, 60)  # the second number for models that learn slowly
LEAST_CORRELATION = 0.6  # mean over users


def train(
    model_class: type[Model],
    config: ModelConfig,
    data: Dataset,
    features: Features,
    epochs: int,
    seed: int = 0,
    out: Path | None = None,
    resume: bool = False,
) -> Any:
    """Trains a model with the settings of the checks: batches of 64, learning rate 0.01, no validation."""
    model = model_class.build(data, select_features(model_class, features), config)
    options = TrainConfig(
        epochs=epochs,
        batch_size=64,
        learning_rate=0.01,
        seed=seed,
        device="cpu",
        progress=False,
        patience=None,
    )
    return Trainer(options, out=out).fit(model, resume=resume).model


def _trained(
    model_class: type[Ranker], config: ModelConfig, epochs: int, n_groups: int = 4, size: int = 30
) -> tuple[Any, Dataset]:
    """A model trained on communities, and these; ``build`` is not given their test pairs. The latest of each
    size is kept, as several checks ask for the same one.
    """
    key = (model_class, config.model_dump_json(), epochs)
    kept, model = _LATEST.get((n_groups, size), (None, None))
    data, features = communities(n_groups, size)
    if kept != key:
        model = train(model_class, config, with_decoys(data), features, epochs)
        _LATEST[n_groups, size] = key, model
    return copy.deepcopy(model), data


_LATEST: dict[tuple[int, int], tuple[Any, Any]] = {}


def _unseen_ranks(model: Ranker, data: Dataset) -> np.ndarray:
    """Rank (from 1) of each test pair of ``data`` among the items its user has not seen, behind all of equal
    score: a model that scores all items the same knows nothing.
    """
    scores = model.score(np.arange(data.n_users)).numpy()
    scores[data.train.users, data.train.items] = -np.inf
    test_scores = scores[data.test.users, data.test.items]
    ranks: np.ndarray = (scores[data.test.users] >= test_scores[:, None]).sum(1)
    return ranks


def check_learns_the_checkerboard(model_class: type[Ranker], config: ModelConfig) -> None:
    """After training, the held-out item of a user's color ranks first; ``build`` is not given these pairs."""
    data, features = checkerboard()
    for epochs in (20, 150):  # the second number for models that learn slowly
        ranks = _unseen_ranks(train(model_class, config, with_decoys(data), features, epochs), data)
        first = (ranks == 1).mean()
        if first >= 0.95 or not model_class.personalized:
            break
    else:
        raise AssertionError(f"only {first:.0%} of the held-out items rank first")
    assert (ranks >= 1).all()


def check_beats_popularity(model_class: type[Ranker], config: ModelConfig) -> None:
    """On data with planted communities, a personalized model beats popularity clearly, on test pairs that
    ``build`` is not given.
    """
    data, _ = communities()
    popular = data.train.item_degree[None].repeat(data.n_users, 0).astype(float)
    popular[data.train.users, data.train.items] = -1
    test_popularity = popular[data.test.users, data.test.items]
    floor = ((popular[data.test.users] > test_popularity[:, None]).sum(1) < 10).mean()
    for epochs in LEARNING_EPOCHS:
        model, _ = _trained(model_class, config, epochs)
        hits = (_unseen_ranks(model, data) <= 10).mean()
        if hits > 1.3 * floor or not model_class.personalized:
            return
    raise AssertionError(f"hits {hits:.3f} of the test pairs in the top 10, popularity {floor:.3f}")


def check_repeats_bit_for_bit(model_class: type[Model], config: ModelConfig) -> None:
    """Two trainings with the same seed agree in every bit, and another seed gives other weights."""
    with fixtures(model_class, config) as (data, features, config):

        def trained() -> dict[str, torch.Tensor]:
            return dict(train(model_class, config, data, features, 3).state_dict())

        first = trained()
        if differing := differing_names(first, trained()):
            sources = sorted(set(sources_of_randomness(trained, differing).values()))
            raise AssertionError(
                f"{', '.join(differing)} differ between two equal trainings; the difference comes from "
                f"{' and '.join(sources)}"
            )
        other = train(model_class, config, data, features, 3, seed=1)
        if any(p.requires_grad for p in other.parameters()):
            assert differing_names(first, other.state_dict()), (
                "another seed gives the very same weights, so the seed is not used"
            )


def check_resume_equals_a_straight_run(model_class: type[Model], config: ModelConfig) -> None:
    """Two epochs and two more after resuming equal four epochs at once, bit for bit."""
    with fixtures(model_class, config) as (data, features, config):
        straight = train(model_class, config, data, features, 4).state_dict()
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            train(model_class, config, data, features, 2, out=out)
            resumed = train(model_class, config, data, features, 4, out=out, resume=True).state_dict()
        for name in straight:
            assert torch.equal(straight[name], resumed[name]), f"{name} differs after resuming"


def check_saves_and_loads(model_class: type[Model], config: ModelConfig) -> None:
    """A checkpoint loaded into a freshly built model gives equal weights and scores."""
    with fixtures(model_class, config) as (data, features, config):
        tables = select_features(model_class, features)
        model = train(model_class, config, data, features, 2)
        with tempfile.TemporaryDirectory() as folder:
            checkpoint.write(folder, 1, model)
            fresh = model_class.build(data, tables, type(config)(**{**config.model_dump(), "seed": 123}))
            checkpoint.read(folder, fresh)
        for name, value in model.state_dict().items():
            assert torch.equal(value, fresh.state_dict()[name]), f"{name} is not restored"
        if isinstance(model, Ranker) and isinstance(fresh, Ranker):
            users = np.arange(data.n_users)
            assert torch.equal(model.score(users), fresh.score(users)), "scores differ after loading"


def check_batch_equals_single(model_class: type[Ranker], config: ModelConfig) -> None:
    """Scores of many users equal those of each user alone."""
    model, data = _trained(model_class, config, 2, n_groups=2, size=20)
    batch = model.score(np.arange(data.n_users))
    assert batch.shape == (data.n_users, data.n_items), f"scores have shape {tuple(batch.shape)}"
    singly = torch.cat([model.score([u]) for u in range(data.n_users)])
    worst = float((batch - singly).abs().max() / batch.abs().max())
    assert worst <= SCORE_TOLERANCE, f"scores of one user differ by {worst:.1e} from those in a batch"


def check_capability(model_class: type[Ranker], config: ModelConfig) -> None:
    """The model answers queries as its ``capability`` declares, and each row independently of the others."""
    model, data = _trained(model_class, config, 2, n_groups=2, size=20)
    capability = model.capability
    assert capability in CAPABILITIES, f"capability {capability!r} is not one of {CAPABILITIES}"
    for other in ("encoder", "generator"):
        declared = getattr(model_class, f"{other}_class") is not None
        assert declared == (capability == other), f"{other}_class does not fit the capability {capability!r}"
    if capability in ("embeddings", "item_weights"):
        users, items = model.embed()
        shapes = _shape(users), _shape(items)
        width = data.n_items if capability == "item_weights" else shapes[0][1]
        expected = ((data.n_users, width), (data.n_items, width))
        assert shapes == expected, f"embeddings have shapes {shapes}; expected {expected}"
    if capability == "embeddings":
        return
    known = Histories.from_interactions(data.train)
    by_user = model.score(np.arange(data.n_users))
    by_history = model.score(Query(histories=known))
    _assert_close(by_user, by_history, "scores of a known user differ from those of the same history")
    singly = torch.cat([model.score(Query(histories=known.take([u]))) for u in range(data.n_users)])
    _assert_close(by_history, singly, "scores of a history differ from those in a batch")
    if capability == "item_weights":
        _check_weights(model, known)
        twice = model.score(Query(histories=_weighted(known, 2.0)))
        _assert_close(twice, 2 * by_history, "weights of 2 do not double the scores of a history")
    if capability != "generator":
        return
    allowed = torch.from_numpy(numpy_rng(0, "testing/allowed").random((data.n_users, data.n_items)) < 0.5)
    items = model.generator.generate(Query(histories=known), 5, allowed).items
    assert tuple(items.shape) == (data.n_users, 5), f"lists have shape {tuple(items.shape)}"
    inside = allowed.gather(1, items.clamp(min=0)) | (items < 0)
    assert inside.all(), "a generated list holds an item that is not allowed"


def check_folds_in(model_class: type[Ranker], config: ModelConfig) -> None:
    """Scores of a known user's items, folded in, rank items much as the user's own scores do."""
    if model_class.capability != "embeddings":
        return
    for epochs in LEARNING_EPOCHS:
        model, data = _trained(model_class, config, epochs)
        if isinstance(model.embed()[1], Graph):
            return
        trained = model.score(np.arange(data.n_users))
        histories = Histories.from_interactions(data.train)
        folded = model.score(Query(histories=histories))
        assert torch.isfinite(folded).all(), "scores of a history that is folded in are not finite"
        singly = torch.cat([model.score(Query(histories=histories.take([u]))) for u in range(5)])
        _assert_close(folded[:5], singly, "scores of a history differ from those in a batch")
        _check_weights(model, histories)
        ranks = [scores.argsort(1).argsort(1).double().numpy() for scores in (trained, folded)]
        correlation = np.mean([np.corrcoef(*pair)[0, 1] for pair in zip(*ranks, strict=True)])
        if correlation >= LEAST_CORRELATION:
            return
    raise AssertionError(
        f"scores of a known user's items have rank correlation {correlation:.2f} with the user's own scores; "
        f"expected {LEAST_CORRELATION} at least"
    )


def _weighted(histories: Histories, weight: float) -> Histories:
    """The histories with the same weight for all items."""
    return Histories(histories.items, histories.indptr, weights=np.full(len(histories.items), weight))


def _check_weights(model: Ranker, histories: Histories) -> None:
    """Weights of 1 change no bit of the scores of histories."""
    plain, weighted = (model.score(Query(histories=h)) for h in (histories, _weighted(histories, 1.0)))
    assert torch.equal(plain, weighted), "weights of 1 change the scores of a history"


def _shape(table: torch.Tensor | Graph) -> tuple[int, ...]:
    return (table.n_target, table.n_source) if isinstance(table, Graph) else tuple(table.shape)


def _assert_close(one: torch.Tensor, other: torch.Tensor, message: str) -> None:
    """Raises where finite scores differ by more than rounding, or others than the same are infinite."""
    finite = torch.isfinite(one)
    assert torch.equal(finite, torch.isfinite(other)), message
    one, other = one[finite], other[finite]
    worst = float((one - other).abs().max() / one.abs().max().clamp(min=1e-12)) if len(one) else 0.0
    assert worst <= SCORE_TOLERANCE, f"{message}, by {worst:.1e}"


def check_every_parameter_learns(model_class: type[Model], config: ModelConfig) -> None:
    """Every trainable parameter receives a gradient that is finite and not all zero, from the first batch of
    an epoch or the first of another type.
    """
    with fixtures(model_class, config) as (data, features, config):
        model = model_class.build(data, select_features(model_class, features), config)
        parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if not parameters:
            return
        model.start_epoch(numpy_rng(0, "start_epoch", 1))
        firsts = dict[type, Any]()
        for batch in model.batches(EpochContext(1, 256, 0)):
            firsts.setdefault(type(batch), batch)
        for batch in firsts.values():
            losses = model.loss(batch)
            for name, value in losses.items():
                assert value.dim() == 0, f"loss term {name!r} has shape {tuple(value.shape)}; expected ()"
                assert torch.isfinite(value), f"loss term {name!r} is {value.item()}"
            torch.stack(list(losses.values())).sum().backward()
        faults = []
        for name, parameter in parameters.items():
            if parameter.grad is None:
                faults.append(f"{owner(model, name)} gets no gradient")
            elif not torch.isfinite(parameter.grad).all():
                faults.append(f"the gradient of {owner(model, name)} is not finite")
            elif not parameter.grad.abs().sum() > 0:
                faults.append(f"the gradient of {owner(model, name)} is zero")
        assert not faults, "; ".join(faults)


def check_gaps(model_class: type[Ranker], config: ModelConfig) -> None:
    """Scores are finite with a user and an item without interactions and with items without content."""
    full, _ = communities(2, 20)
    keep = (full.train.users != 0) & (full.train.items != 1)
    pairs = np.stack([full.train.users[keep], full.train.items[keep]], 1)
    data = dataset(pairs, [], full.n_users, full.n_items, "gaps")
    vectors = numpy_rng(0, "testing/gaps").normal(size=(data.n_items, 6))
    model = train(model_class, config, data, features_of(data, vectors, missing=(1, 2, 3)), 2)
    scores = model.score(np.arange(data.n_users))
    assert torch.isfinite(scores).all(), (
        "scores are not finite with an empty user, an isolated item and missing content"
    )


def check_missing_content_is_not_read(model_class: type[Ranker], config: ModelConfig) -> None:
    """Values in the feature rows of items without content change no score, with every ``Config.fill``."""
    if not model_class.modalities:
        return
    data, _ = communities(2, 20)
    vectors = numpy_rng(0, "testing/missing").normal(size=(data.n_items, 6)).astype(np.float32)
    present = np.ones(data.n_items, dtype=bool)
    present[[1, 2, 3]] = False
    other = np.where(present[:, None], vectors, np.float32(1e4))
    users = np.arange(data.n_users)

    def tables(values: np.ndarray) -> dict[str, FeatureTable]:  # from_array would set missing rows to zero
        about = {"items": data.items.fingerprint}
        return {m: FeatureTable(values.copy(), present, {"field": m, **about}) for m in ("image", "text")}

    fills = ("zero", "mean", "neighbors") if "fill" in type(config).model_fields else (None,)
    scored = []
    for fill in fills:
        filled = config if fill is None else config.replace(fill=fill)
        a, b = (
            train(model_class, filled, data, tables(values), 2).score(users) for values in (vectors, other)
        )
        assert torch.isfinite(a).all(), f"scores are not finite with missing content and fill={fill!r}"
        assert torch.equal(a, b), f"values of missing rows influence the scores with fill={fill!r}"
        scored.append(a)
    if len(scored) > 1:
        assert not torch.equal(scored[0], scored[1]), "Config.fill is an option without any effect"


def check_features_stay_frozen(model_class: type[Model], config: ModelConfig) -> None:
    """Training changes neither the feature tables nor the model's copy of them."""
    if not model_class.modalities:
        return
    with fixtures(model_class, config) as (data, features, config):
        before = {m: (t.compute_sha256(), t.numpy().copy()) for m, t in features.items()}
        model = train(model_class, config, data, features, 2)
        for modality, (sha256, values) in before.items():
            assert features[modality].compute_sha256() == sha256, f"the {modality} table's hash changed"
            assert np.array_equal(features[modality].numpy(), values), (
                f"the {modality} features changed while training"
            )
        for name, buffer in model.named_buffers():
            for values in (v for _, v in before.values()):
                if buffer.shape == values.shape and buffer.dtype == torch.float32:
                    unchanged = any(np.array_equal(buffer.numpy(), v) for _, v in before.values())
                    assert unchanged, f"the model's copy of features in {name} changed while training"


def check_config_is_strict(model_class: type[Model], config: ModelConfig) -> None:
    """``Config`` refuses an unknown option by name."""
    message = ""
    try:
        model_class.Config(**dict.fromkeys(["no_such_option"], 1))
    except ConfigError as error:
        message = str(error)
    assert "no_such_option" in message, "Config accepts an option it does not know, or does not name it"


def check_options_have_docstrings(model_class: type[Model], config: ModelConfig) -> None:
    """Every option has a docstring: a rule of style."""
    missing = [option for option, info in model_class.Config.model_fields.items() if not info.description]
    assert not missing, f"options of Config without a docstring: {', '.join(missing)}"
