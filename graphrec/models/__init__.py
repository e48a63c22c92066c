"""Models: one file each and one line in :data:`MODELS`; imported when first used.

An installed package adds models by the entry point group ``graphrec.models``
(:mod:`graphrec.core.registry`). The imports under ``TYPE_CHECKING`` are for type checkers and editors; a
model works without one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphrec.core.errors import ConfigError
from graphrec.core.registry import Registry

if TYPE_CHECKING:
    from graphrec.models.alpharec import AlphaRec as AlphaRec
    from graphrec.models.autocf import AutoCF as AutoCF
    from graphrec.models.base import Model
    from graphrec.models.bm3 import BM3 as BM3
    from graphrec.models.bspm import BSPM as BSPM
    from graphrec.models.cohesion import COHESION as COHESION
    from graphrec.models.content_ease import ContentEASE as ContentEASE
    from graphrec.models.damrs import DAMRS as DAMRS
    from graphrec.models.dccf import DCCF as DCCF
    from graphrec.models.diffmm import DiffMM as DiffMM
    from graphrec.models.directau import DirectAU as DirectAU
    from graphrec.models.dragon import DRAGON as DRAGON
    from graphrec.models.dualgnn import DualGNN as DualGNN
    from graphrec.models.ease import EASE as EASE
    from graphrec.models.freedom import FREEDOM as FREEDOM
    from graphrec.models.gf_cf import GFCF as GFCF
    from graphrec.models.gformer import GFormer as GFormer
    from graphrec.models.grcn import GRCN as GRCN
    from graphrec.models.hccf import HCCF as HCCF
    from graphrec.models.ials import IALS as IALS
    from graphrec.models.itemknn import ItemKNN as ItemKNN
    from graphrec.models.itemknn_content import ItemKNNContent as ItemKNNContent
    from graphrec.models.lattice import LATTICE as LATTICE
    from graphrec.models.layergcn import LayerGCN as LayerGCN
    from graphrec.models.lgmrec import LGMRec as LGMRec
    from graphrec.models.lightgcl import LightGCL as LightGCL
    from graphrec.models.lightgcn import LightGCN as LightGCN
    from graphrec.models.llmrec import LLMRec as LLMRec
    from graphrec.models.mentor import MENTOR as MENTOR
    from graphrec.models.mf import MF as MF
    from graphrec.models.mgcn import MGCN as MGCN
    from graphrec.models.micro import MICRO as MICRO
    from graphrec.models.mmgcn import MMGCN as MMGCN
    from graphrec.models.mmssl import MMSSL as MMSSL
    from graphrec.models.ncl import NCL as NCL
    from graphrec.models.pgl import PGL as PGL
    from graphrec.models.popularity import Popularity as Popularity
    from graphrec.models.rlmrec import RLMRecCon as RLMRecCon, RLMRecGen as RLMRecGen
    from graphrec.models.rp3beta import RP3beta as RP3beta
    from graphrec.models.selfcf import SelfCF as SelfCF
    from graphrec.models.sgl import SGL as SGL
    from graphrec.models.simgcl import SimGCL as SimGCL
    from graphrec.models.slim import SLIM as SLIM
    from graphrec.models.slmrec import SLMRec as SLMRec
    from graphrec.models.smore import SMORE as SMORE
    from graphrec.models.ultragcn import UltraGCN as UltraGCN
    from graphrec.models.userknn import UserKNN as UserKNN
    from graphrec.models.vbpr import VBPR as VBPR
    from graphrec.models.xsimgcl import XSimGCL as XSimGCL
    from graphrec.models.zero_shot import ZeroShot as ZeroShot

MODELS = Registry("model", "graphrec.models", {
    "popularity": "graphrec.models.popularity:Popularity",
    "itemknn": "graphrec.models.itemknn:ItemKNN",
    "itemknn-content": "graphrec.models.itemknn_content:ItemKNNContent",
    "userknn": "graphrec.models.userknn:UserKNN",
    "rp3beta": "graphrec.models.rp3beta:RP3beta",
    "slim": "graphrec.models.slim:SLIM",
    "ease": "graphrec.models.ease:EASE",
    "content-ease": "graphrec.models.content_ease:ContentEASE",
    "ials": "graphrec.models.ials:IALS",
    "gf-cf": "graphrec.models.gf_cf:GFCF",
    "bspm": "graphrec.models.bspm:BSPM",
    "mf": "graphrec.models.mf:MF",
    "lightgcn": "graphrec.models.lightgcn:LightGCN",
    "layergcn": "graphrec.models.layergcn:LayerGCN",
    "sgl": "graphrec.models.sgl:SGL",
    "simgcl": "graphrec.models.simgcl:SimGCL",
    "xsimgcl": "graphrec.models.xsimgcl:XSimGCL",
    "lightgcl": "graphrec.models.lightgcl:LightGCL",
    "ncl": "graphrec.models.ncl:NCL",
    "hccf": "graphrec.models.hccf:HCCF",
    "dccf": "graphrec.models.dccf:DCCF",
    "directau": "graphrec.models.directau:DirectAU",
    "autocf": "graphrec.models.autocf:AutoCF",
    "gformer": "graphrec.models.gformer:GFormer",
    "selfcf": "graphrec.models.selfcf:SelfCF",
    "ultragcn": "graphrec.models.ultragcn:UltraGCN",
    "vbpr": "graphrec.models.vbpr:VBPR",
    "mmgcn": "graphrec.models.mmgcn:MMGCN",
    "grcn": "graphrec.models.grcn:GRCN",
    "slmrec": "graphrec.models.slmrec:SLMRec",
    "freedom": "graphrec.models.freedom:FREEDOM",
    "bm3": "graphrec.models.bm3:BM3",
    "lattice": "graphrec.models.lattice:LATTICE",
    "pgl": "graphrec.models.pgl:PGL",
    "mgcn": "graphrec.models.mgcn:MGCN",
    "smore": "graphrec.models.smore:SMORE",
    "dualgnn": "graphrec.models.dualgnn:DualGNN",
    "dragon": "graphrec.models.dragon:DRAGON",
    "cohesion": "graphrec.models.cohesion:COHESION",
    "mentor": "graphrec.models.mentor:MENTOR",
    "lgmrec": "graphrec.models.lgmrec:LGMRec",
    "micro": "graphrec.models.micro:MICRO",
    "damrs": "graphrec.models.damrs:DAMRS",
    "diffmm": "graphrec.models.diffmm:DiffMM",
    "mmssl": "graphrec.models.mmssl:MMSSL",
    "llmrec": "graphrec.models.llmrec:LLMRec",
    "zero-shot": "graphrec.models.zero_shot:ZeroShot",
    "alpharec": "graphrec.models.alpharec:AlphaRec",
    "rlmrec-con": "graphrec.models.rlmrec:RLMRecCon",
    "rlmrec-gen": "graphrec.models.rlmrec:RLMRecGen",
    "directory": "graphrec.code.models.directory:Directory",
    "cochange": "graphrec.code.models.cochange:CoChange",
    "coder": "graphrec.code.models.coder:CODER",
    "fm": "graphrec.conversation.models.fm:FM",
    "scpr": "graphrec.conversation.models.scpr:SCPR",
})  # fmt: skip
"""Model name -> ``module:Class``, those of installed packages included."""


def model(name: str) -> type[Model]:
    """The model class of a registered name, in any case.

    Raises:
        ConfigError: no such model (names the nearest), or the package that adds it is broken.
    """
    name = name.lower()
    model_class: type[Model] = MODELS.load(name)
    package = MODELS.package(name)
    if package is not None:
        _check_entry_point(name, package, model_class)
    return model_class


def _check_entry_point(name: str, package: str, loaded: Any) -> None:
    """Refuses an entry point that is no model class, or one of another name: runs are opened by that name."""
    from graphrec.models.base import Model

    defect = None
    if not (isinstance(loaded, type) and issubclass(loaded, Model)):
        defect = f"{loaded!r} is no subclass of graphrec.Model"
    elif loaded.name != name:
        defect = f"{loaded.__name__}.name is {loaded.name!r}; expected the name of its entry point"
    if defect is not None:
        raise ConfigError(f"model {name!r} of {package} cannot be used: {defect}")


def __getattr__(name: str) -> Any:
    for registered, target in MODELS.builtin.items():
        if target.endswith(f":{name}"):
            return MODELS.load(registered)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
