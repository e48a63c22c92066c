"""Models: one file each, one line here; imported when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from graphrec.core.errors import ConfigError, nearest

if TYPE_CHECKING:
    from graphrec.models.base import Model
    from graphrec.models.bm3 import BM3 as BM3
    from graphrec.models.freedom import FREEDOM as FREEDOM
    from graphrec.models.itemknn import ItemKNN as ItemKNN
    from graphrec.models.itemknn_content import ItemKNNContent as ItemKNNContent
    from graphrec.models.lattice import LATTICE as LATTICE
    from graphrec.models.lightgcn import LightGCN as LightGCN
    from graphrec.models.llmrec import LLMRec as LLMRec
    from graphrec.models.mf import MF as MF
    from graphrec.models.popularity import Popularity as Popularity
    from graphrec.models.vbpr import VBPR as VBPR

MODELS: dict[str, str] = {
    "popularity": "graphrec.models.popularity:Popularity",
    "itemknn": "graphrec.models.itemknn:ItemKNN",
    "itemknn-content": "graphrec.models.itemknn_content:ItemKNNContent",
    "mf": "graphrec.models.mf:MF",
    "lightgcn": "graphrec.models.lightgcn:LightGCN",
    "vbpr": "graphrec.models.vbpr:VBPR",
    "freedom": "graphrec.models.freedom:FREEDOM",
    "bm3": "graphrec.models.bm3:BM3",
    "lattice": "graphrec.models.lattice:LATTICE",
    "llmrec": "graphrec.models.llmrec:LLMRec",
    "directory": "graphrec.code.models.directory:Directory",
    "cochange": "graphrec.code.models.cochange:CoChange",
    "coder": "graphrec.code.models.coder:CODER",
    "fm": "graphrec.conversation.models.fm:FM",
    "scpr": "graphrec.conversation.models.scpr:SCPR",
}
"""Model name -> ``module:Class``."""


def model(name: str) -> type[Model]:
    """The model class of a registered name, in any case.

    Raises:
        ConfigError: no such model; names the nearest.
    """
    target = MODELS.get(name.lower())
    if target is None:
        raise ConfigError(f"model {name!r} is not one of {sorted(MODELS)}.{nearest(name.lower(), MODELS)}")
    module, _, attribute = target.partition(":")
    found: type[Model] = getattr(importlib.import_module(module), attribute)
    return found


def __getattr__(name: str) -> Any:
    for target in MODELS.values():
        if target.endswith(f":{name}"):
            return model(next(k for k, v in MODELS.items() if v == target))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
