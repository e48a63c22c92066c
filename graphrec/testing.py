"""The contract every model keeps, as functions anybody can run on a model of their own.

    from graphrec.testing import check_model
    check_model(MyModel)                       # or check_model(MyModel, MyModel.Config(dim=16))

Each check is one function ``check_*(model_class, config)`` that raises ``AssertionError`` saying what is
wrong. The project's own tests run all of them over every registered model. Models that are no rankers are
held to the checks of training alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphrec import checkpoint
from graphrec.conversation.vectors import DialogueVectors, write_vectors
from graphrec.data.dataset import Dataset
from graphrec.data.interactions import Interactions
from graphrec.data.repositories import tree_of
from graphrec.data.vocabulary import Vocabulary
from graphrec.errors import ConfigError
from graphrec.model import Features, Model, ModelConfig, Ranker
from graphrec.sampling import Plan
from graphrec.seeds import stream
from graphrec.store import FeatureTable
from graphrec.trainer import TrainConfig, Trainer

SCORE_TOLERANCE = 1e-6  # float32: one row of a product may be summed in another order than many


def dataset(train: Any, test: Any, n_users: int, n_items: int, name: str) -> Dataset:
    """A dataset of plain ids from ``(E, 2)`` index pairs, without a validation split; items stand in turn in
    two directories of two repositories.
    """
    users = Vocabulary([f"u{i}" for i in range(n_users)], "user")
    items = Vocabulary([f"i{i}" for i in range(n_items)], "item")

    def part(pairs: Any, split: str) -> Interactions:
        pairs = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
        return Interactions(pairs[:, 0], pairs[:, 1], n_users, n_items, name=split)

    known = part(train, "train")
    places = [(i % 2, [f"part{i // 2 % 2}", "file.py"]) for i in range(n_items)]
    nodes, relations = tree_of(places, ["a", "b"])
    done = np.unique(np.stack([known.users, known.items % 2]), axis=1)
    return Dataset(
        name, users, items, known, part([], "valid"), part(test, "test"), nodes=nodes,
        relations={**relations, ("user", "authored", "repository"): done.astype(np.int32)},
    )  # fmt: skip


def features_of(data: Dataset, vectors: np.ndarray, missing: tuple[int, ...] = ()) -> dict[str, FeatureTable]:
    """An ``image`` and a ``text`` table from vectors ``(n_items, d)``, without the items in ``missing``."""
    present = np.ones(data.n_items, dtype=bool)
    present[list(missing)] = False
    values = vectors.astype(np.float32)
    return {
        "image": FeatureTable.from_array(values, data, "image", present=present),
        "text": FeatureTable.from_array(values[:, ::-1].copy(), data, "text", present=present),
    }


def chosen(model_class: type[Model], features: Features) -> dict[str, FeatureTable] | None:
    """What a model takes: none, all tables, or, where it has one field of its own, ``image`` eight times over
    as its segments.
    """
    if not model_class.modalities:
        return None
    if model_class.extractor is None or not features:
        return dict(features)
    field, image = model_class.fields[0], features["image"]
    return {field: FeatureTable(np.tile(image.numpy(), 8), image.present, {**image.meta, "field": field})}


def checkerboard(n: int = 20) -> tuple[Dataset, dict[str, FeatureTable]]:
    """Even users take even items, odd users odd ones; each user's one remaining item of their colour is the
    test.

    Returns:
        the dataset (``n`` users, ``n`` items) and features that say a little about the colour.
    """
    pairs = np.array([(u, i) for u in range(n) for i in range(n) if u % 2 == i % 2])
    # User u keeps back item (u + 2) mod n, so that every item is kept back exactly once.
    held = pairs[:, 1] == (pairs[:, 0] + 2) % n
    data = dataset(pairs[~held], pairs[held], n, n, "checkerboard")
    noise = stream(0, "testing/checkerboard").normal(size=(n, 8))
    noise[:, 0] += np.where(np.arange(n) % 2, 2.0, -2.0)
    return data, features_of(data, noise)


def communities(n_groups: int = 4, size: int = 30, seed: int = 0) -> tuple[Dataset, dict[str, FeatureTable]]:
    """Users who mostly stay within their group's items, with a popularity skew across all of them."""
    rng = stream(seed, "testing/communities")
    n = n_groups * size
    group = np.arange(n) % n_groups
    popularity = 1.0 / (1.0 + rng.permutation(n)) ** 0.5
    pairs = []
    for user in range(n):
        weight = popularity * np.where(group == group[user], 1.0, 0.05)
        pairs += [(user, int(i)) for i in rng.choice(n, 10, replace=False, p=weight / weight.sum())]
    array = np.array(pairs)
    held = np.arange(len(array)) % 10 >= 8
    data = dataset(array[~held], array[held], n, n, "communities")
    centres = rng.normal(size=(n_groups, 8))
    return data, features_of(data, centres[group] + 0.5 * rng.normal(size=(n, 8)))


def conversations(folder: Path) -> tuple[Dataset, Path]:
    """30 items with some of 8 attributes, 10 users with pairs to train and to validate on.

    Args:
        folder: random vectors are written there.

    Returns:
        the dataset and where the vectors are.
    """
    rng = stream(0, "testing/conversations")
    has = rng.random((30, 8)) < 0.3
    has[np.arange(30), np.arange(30) % 8] = True
    pairs = rng.permutation(300)[:120]
    data = dataset(np.stack([pairs // 30, pairs % 30], 1)[:60], [], 10, 30, "conversations")
    held = Interactions(pairs[60:] // 30, pairs[60:] % 30, 10, 30, name="valid")
    attributes = Vocabulary([f"a{i}" for i in range(8)], "attribute")
    edges = np.stack(np.nonzero(has)).astype(np.int32)
    data = replace(
        data, valid=held, nodes={"attribute": attributes}, relations={("item", "has", "attribute"): edges}
    )
    sizes = (10, 30, 8)
    vectors = DialogueVectors(*(rng.normal(size=(n, 4)).astype(np.float32) for n in sizes))
    path = write_vectors(folder / "vectors", vectors)
    return data, path


@contextmanager
def material(
    model_class: type[Model], config: ModelConfig
) -> Iterator[tuple[Dataset, dict[str, FeatureTable], ModelConfig]]:
    """What a model can be trained on: a dataset, features, and its options with what they must name."""
    if not model_class.converses:
        yield *communities(2, 20), config
        return
    with tempfile.TemporaryDirectory() as folder:
        data, scorer = conversations(Path(folder))
        yield data, {}, config.replace(scorer=scorer)


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
    """A model trained for some epochs at test settings: batches of 64, learning rate 0.01, no validation."""
    model = model_class.build(data, chosen(model_class, features), config)
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


def _unseen_ranks(model: Ranker, data: Dataset) -> np.ndarray:
    """Rank (from 1) of each test pair among the items its user has not seen."""
    scores = model.score(np.arange(data.n_users)).numpy()
    scores[data.train.users, data.train.items] = -np.inf
    own = scores[data.test.users, data.test.items]
    ranks: np.ndarray = 1 + (scores[data.test.users] > own[:, None]).sum(1)
    return ranks


def check_learns_the_checkerboard(model_class: type[Ranker], config: ModelConfig) -> None:
    """After training, the kept-back item of a user's colour ranks first."""
    data, features = checkerboard()
    ranks = _unseen_ranks(train(model_class, config, data, features, 150), data)
    if model_class.personalised:
        assert (ranks == 1).mean() >= 0.95, (
            f"only {(ranks == 1).mean():.0%} of the kept-back items rank first"
        )
    else:
        assert (ranks >= 1).all()


def check_beats_popularity(model_class: type[Ranker], config: ModelConfig) -> None:
    """On planted communities a personalised model finds clearly more than popularity does."""
    data, features = communities()
    hits = (_unseen_ranks(train(model_class, config, data, features, 60), data) <= 10).mean()
    popular = data.train.item_degree[None].repeat(data.n_users, 0).astype(float)
    popular[data.train.users, data.train.items] = -1
    own = popular[data.test.users, data.test.items]
    floor = ((popular[data.test.users] > own[:, None]).sum(1) < 10).mean()
    if model_class.personalised:
        assert hits > 1.3 * floor, f"hits {hits:.3f} of the test pairs in the top 10, popularity {floor:.3f}"


def check_repeats_bit_for_bit(model_class: type[Model], config: ModelConfig) -> None:
    """Two trainings with one seed agree in every bit, another seed's differs."""
    with material(model_class, config) as (data, features, config):
        first, second = (train(model_class, config, data, features, 3).state_dict() for _ in range(2))
        for name in first:
            assert torch.equal(first[name], second[name]), f"{name} differs between two equal trainings"
        other = train(model_class, config, data, features, 3, seed=1)
        if any(p.requires_grad for p in other.parameters()):
            differs = any(not torch.equal(first[k], v) for k, v in other.state_dict().items())
            assert differs, "another seed gives the very same weights, so the seed is not used"


def check_resume_equals_a_straight_run(model_class: type[Model], config: ModelConfig) -> None:
    """Two epochs, then a new process's worth of resuming, equals four epochs in one go, bit for bit."""
    with material(model_class, config) as (data, features, config):
        straight = train(model_class, config, data, features, 4).state_dict()
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            train(model_class, config, data, features, 2, out=out)
            resumed = train(model_class, config, data, features, 4, out=out, resume=True).state_dict()
        for name in straight:
            assert torch.equal(straight[name], resumed[name]), f"{name} differs after resuming"


def check_saves_and_loads(model_class: type[Model], config: ModelConfig) -> None:
    """A checkpoint loaded into a freshly built model gives equal weights and scores."""
    with material(model_class, config) as (data, features, config):
        given = chosen(model_class, features)
        model = train(model_class, config, data, features, 2)
        with tempfile.TemporaryDirectory() as folder:
            checkpoint.write(folder, 1, model)
            fresh = model_class.build(data, given, type(config)(**{**config.model_dump(), "seed": 123}))
            checkpoint.read(folder, fresh)
        for name, value in model.state_dict().items():
            assert torch.equal(value, fresh.state_dict()[name]), f"{name} is not restored"
        if isinstance(model, Ranker) and isinstance(fresh, Ranker):
            users = np.arange(data.n_users)
            assert torch.equal(model.score(users), fresh.score(users)), "scores differ after loading"


def check_batch_equals_single(model_class: type[Ranker], config: ModelConfig) -> None:
    """Scoring many users equals scoring each alone."""
    data, features = communities(2, 20)
    model = train(model_class, config, data, features, 2)
    together = model.score(np.arange(data.n_users))
    assert together.shape == (data.n_users, data.n_items), f"scores have shape {tuple(together.shape)}"
    alone = torch.cat([model.score([u]) for u in range(data.n_users)])
    worst = float((together - alone).abs().max() / together.abs().max())
    assert worst <= SCORE_TOLERANCE, f"scores of one user differ by {worst:.1e} from those in a batch"


def check_every_parameter_learns(model_class: type[Model], config: ModelConfig) -> None:
    """Every trainable parameter receives a gradient that is finite and not all zero."""
    with material(model_class, config) as (data, features, config):
        model = model_class.build(data, chosen(model_class, features), config)
        parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if not parameters:
            return
        model.start_epoch(stream(0, "start_epoch", 1))
        batch = next(iter(model.batches(Plan(1, 256, 0))))
        losses = model.loss(batch)
        for name, value in losses.items():
            assert value.dim() == 0, f"loss term {name!r} has shape {tuple(value.shape)}; expected a scalar"
            assert torch.isfinite(value), f"loss term {name!r} is {value.item()}"
        torch.stack(list(losses.values())).sum().backward()
        for name, parameter in parameters.items():
            assert parameter.grad is not None, f"{name} gets no gradient"
            assert torch.isfinite(parameter.grad).all(), f"the gradient of {name} is not finite"
            assert parameter.grad.abs().sum() > 0, f"the gradient of {name} is zero"


def check_gaps(model_class: type[Ranker], config: ModelConfig) -> None:
    """A user and an item without train interactions, and items without content, train and score finitely."""
    full, _ = communities(2, 20)
    keep = (full.train.users != 0) & (full.train.items != 1)
    pairs = np.stack([full.train.users[keep], full.train.items[keep]], 1)
    data = dataset(pairs, [], full.n_users, full.n_items, "gaps")
    vectors = stream(0, "testing/gaps").normal(size=(data.n_items, 6))
    model = train(model_class, config, data, features_of(data, vectors, missing=(1, 2, 3)), 2)
    scores = model.score(np.arange(data.n_users))
    assert torch.isfinite(scores).all(), (
        "scores are not finite with an empty user, an isolated item and missing content"
    )


def check_missing_content_is_not_read(model_class: type[Ranker], config: ModelConfig) -> None:
    """Whatever stands in the row of an item that has no content, no score changes, however it is filled."""
    if not model_class.modalities:
        return
    data, _ = communities(2, 20)
    vectors = stream(0, "testing/missing").normal(size=(data.n_items, 6)).astype(np.float32)
    present = np.ones(data.n_items, dtype=bool)
    present[[1, 2, 3]] = False
    other = np.where(present[:, None], vectors, np.float32(1e4))
    users = np.arange(data.n_users)

    def tables(values: np.ndarray) -> dict[str, FeatureTable]:  # as they are: from_array would clear the rows
        about = {"items": data.items.fingerprint}
        return {m: FeatureTable(values.copy(), present, {"field": m, **about}) for m in ("image", "text")}

    fills = ("zero", "mean", "neighbours") if "fill" in type(config).model_fields else (None,)
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
    """Training changes neither the tables nor the model's copy of them."""
    if not model_class.modalities:
        return
    with material(model_class, config) as (data, features, config):
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
                    kept = any(np.array_equal(buffer.numpy(), v) for _, v in before.values())
                    assert kept, f"the model's copy of features in {name} changed while training"


def check_config_is_strict(model_class: type[Model], config: ModelConfig) -> None:
    """An unknown option is refused by name."""
    message = ""
    try:
        model_class.Config(**dict.fromkeys(["no_such_option"], 1))
    except ConfigError as error:
        message = str(error)
    assert "no_such_option" in message, "Config accepts an option it does not know, or does not name it"
    for option, info in model_class.Config.model_fields.items():
        assert info.description, f"Config.{option} has no docstring"


CHECKS: dict[str, Callable[[Any, Any], None]] = {
    name.removeprefix("check_"): check
    for name, check in list(globals().items())
    if name.startswith("check_") and callable(check)
}
"""Name -> check; all of them take a model class and a config."""

FOR_ANY_MODEL = {
    "repeats_bit_for_bit", "resume_equals_a_straight_run", "saves_and_loads", "every_parameter_learns",
    "features_stay_frozen", "config_is_strict",
}  # fmt: skip


def check_model(model_class: type[Model], config: ModelConfig | None = None) -> None:
    """Runs every check that applies to the model; raises at the first that fails, naming it.

    Args:
        model_class: a subclass of :class:`graphrec.Model`.
        config: options to check with; default: the model's defaults.
    """
    for name, check in CHECKS.items():
        if issubclass(model_class, Ranker) or name in FOR_ANY_MODEL:
            try:
                check(model_class, config or model_class.Config())
            except AssertionError as error:
                raise AssertionError(f"{model_class.__name__} fails {name!r}: {error}") from error
