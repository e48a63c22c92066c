"""Checks that a model learns from the train split alone: held-out pairs change nothing that it computes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphrec.core.files import digest, sha256_file
from graphrec.core.random import numpy_rng
from graphrec.data.dataset import Dataset
from graphrec.data.interactions import Interactions
from graphrec.data.query import Histories, Query
from graphrec.graphs.graph import Graph
from graphrec.models.base import Features, Model, ModelConfig, Ranker
from graphrec.models.batches import EpochContext
from graphrec.testing.contract import train
from graphrec.testing.datasets import fixtures, free_pairs, select_features
from graphrec.testing.repetition import global_generators, owner, set_back

SHOWN = 6  # names in a message

Digests = dict[str, str]
"""Name of a tensor or file -> a digest of its bytes."""


def check_learns_from_train_alone(model_class: type[Model], config: ModelConfig) -> None:
    """Other validation and test pairs, or none, change no parameter, buffer, batch, checkpoint, embedding or
    score. The validation pairs of a model with ``reads_valid`` stay as they are.
    """
    keep_valid = model_class.reads_valid
    with fixtures(model_class, config) as (data, features, config):
        variants = held_out_variants(data, keep_valid)
        generators = global_generators()

        def observed(held_out: str) -> dict[str, Digests]:
            set_back(generators)  # so that a model that draws from them repeats, too
            return dict(_observations(model_class, config, variants[held_out], features))

        expected = observed("own")
        found = {held_out: observed(held_out) for held_out in ("other", "no")}
        set_back(generators)
        for held_out, stages in found.items():
            for stage, digests in stages.items():
                differing = [
                    name
                    for name in dict.fromkeys([*expected[stage], *digests])
                    if expected[stage].get(name) != digests.get(name)
                ]
                split = "test" if keep_valid else "validation and test"
                more = f" and {len(differing) - SHOWN:,} more" if len(differing) > SHOWN else ""
                assert not differing, (
                    f"{', '.join(differing[:SHOWN])}{more} differ {stage} if there are {held_out} {split} "
                    f"pairs; only {'train and validation pairs' if keep_valid else 'train pairs'} may matter"
                )


def held_out_variants(data: Dataset, keep_valid: bool = False) -> dict[str, Dataset]:
    """Datasets of the same vocabularies and train split, with times, that differ in what they hold out.

    Args:
        data: its train split is kept, and its validation and test pairs are not.
        keep_valid: keep its validation pairs, too.

    Returns:
        ``"own"``: pairs of the first half of the users and of items of even index; ``"other"``: of the other
        users, items and times, and another number of them; ``"no"``: none.
    """
    rng = numpy_rng(0, "testing/leaks")
    shape = (data.n_users, data.n_items)

    def timed(pairs: np.ndarray, start: int, name: str) -> Interactions:
        times = start + rng.integers(0, 10**7, len(pairs))
        return Interactions(pairs[:, 0], pairs[:, 1], *shape, times, name)

    known = timed(np.stack([data.train.users, data.train.items], 1), 10**9, "train")
    free = rng.permutation(free_pairs(data))  # (F, 2)
    side = (free[:, 0] >= data.n_users // 2) + 2 * (free[:, 1] % 2)
    variants = {}
    for held_out, start, pairs, share in (
        ("own", 11 * 10**8, free[side == 0], 4),
        ("other", 12 * 10**8, free[side == 3], 5),
        ("no", 13 * 10**8, free[:0], 1),
    ):
        n = len(pairs) // share
        valid = data.valid if keep_valid else timed(pairs[:n], start, "valid")
        variants[held_out] = data.with_splits(known, valid, timed(pairs[n : 2 * n], start, "test"))
    return variants


def _observations(
    model_class: type[Model], config: ModelConfig, data: Dataset, features: Features
) -> Iterator[tuple[str, Digests]]:
    """Everything that a model computes, by stage, in the order in which it is computed."""
    model = model_class.build(data, select_features(model_class, features), config)
    yield "after build", _state(model)
    model.start_epoch(numpy_rng(0, "start_epoch", 1))
    yield "after start_epoch", _state(model)
    batches = enumerate(model.batches(EpochContext(1, 64, 0)), 1)
    named = (pair for number, batch in batches for pair in _flat(batch, f"batch {number}"))
    yield "in the first epoch", {name: _digest(value) for name, value in named}
    with tempfile.TemporaryDirectory() as folder:
        trained: Model = train(model_class, config, data, features, 2, out=Path(folder) / "run")
        yield "after training", _state(trained)
        files = sorted(Path(folder).rglob("*.safetensors"))
        yield "in the checkpoint", {path.parent.name + "/" + path.name: sha256_file(path) for path in files}
    answers = _flat(_answers(trained, data), "")
    yield "in the trained model", {name: _digest(value) for name, value in answers}


@torch.no_grad()
def _answers(model: Model, data: Dataset) -> dict[str, Any]:
    """Embeddings and scores by the name under which they are reported."""
    if not isinstance(model, Ranker):
        return {}
    model.eval()
    answers: dict[str, Any] = {"scores of users": model.score(np.arange(data.n_users))}
    answers["rule for cold items"] = model.cold_start_rule
    if model.capability in ("embeddings", "item_weights"):
        answers["embeddings of users"], answers["embeddings of items"] = model.embed()
    if model.capability == "encoder":
        answers["embeddings of items"] = model.item_embeddings()
    if model.capability != "embeddings":
        known = Query(histories=Histories.from_interactions(data.train))
        answers["scores of histories"] = model.score(known)
    return answers


def _state(model: Model) -> Digests:
    """Digests of all parameters and buffers, those of graphs and those that are not saved included."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {owner(model, name): _digest(tensor) for name, tensor in named}


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The tensors, arrays and numbers in nested tuples, lists, mappings and graphs, with their names."""
    if isinstance(value, Graph):
        value = {"rowptr": value.rowptr, "col": value.col, "weight": value.weight}
    elif isinstance(value, tuple | list):
        value = dict(zip(getattr(value, "_fields", range(len(value))), value, strict=True))
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, part in value.items():
        yield from _flat(part, f"{name}.{key}" if name else str(key))


def _digest(value: Any) -> str:
    """A digest of type, shape and bytes; of an object that is no array, number or text, of its class."""
    if not isinstance(value, torch.Tensor):
        is_plain = isinstance(value, np.ndarray | str | bytes | int | float | None)
        return digest(value if isinstance(value, np.ndarray) else repr(value if is_plain else type(value)))
    value = value.detach().cpu()
    if value.layout != torch.strided:
        entries = value.to_sparse_coo().coalesce()
        return _digest(entries.indices()) + _digest(entries.values())
    bits = value.clone(memory_format=torch.contiguous_format).flatten().view(torch.uint8)  # also bfloat16
    return digest(str(value.dtype), tuple(value.shape), bits.numpy())
