"""Nothing that is read can run code, archives are not unpacked, and no file name is made from an id."""

from __future__ import annotations

import ast
import importlib.util
import io
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from extraction import Hashing, catalog

from graphrec import runs
from graphrec.core import bundle
from graphrec.core.errors import GraphrecError
from graphrec.core.files import read_array, sha256_file
from graphrec.data import Content, Dataset
from graphrec.data.readers import load_dataset
from graphrec.data.readers.images import match_images
from graphrec.evaluation.ranking import evaluate
from graphrec.features import FeatureStore, FeatureTable, extract as features
from graphrec.features.extract.extraction import extract
from graphrec.features.vector_files import read_ids
from graphrec.models.mf import MF
from graphrec.serving import Recommender
from graphrec.serving.array_bundle import Bundle
from graphrec.testing import communities
from graphrec.training import checkpoint

ROOT = Path(__file__).parent.parent
FOLDERS = ("graphrec", "features", "experiments", "tests")
SOURCES = sorted(p for f in FOLDERS for p in ROOT.glob(f"{f}/**/*.py") if p != Path(__file__))

# -- the search ----------------------------------------------------------------------------------------------

MODULES = {"pickle", "_pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle", "tarfile"}
CALLS = {
    *(f"torch.{name}" for name in ("load", "save", "jit.load", "hub.load", "package.PackageImporter")),
    *(f"yaml.{name}" for name in ("load", "load_all", "unsafe_load", "unsafe_load_all", "full_load")),
    *("shutil.unpack_archive", "pandas.read_pickle", "numpy.core.multiarray.fromstring"),
    *("eval", "exec", "builtins.eval", "builtins.exec"),
}
METHODS = {"to_pickle", "read_pickle", "extractall", "unpack_archive"}
TEXT = re.compile(r"\b(import|from) (pickle|joblib|dill|cloudpickle)\b|\ballow_pickle ?= ?True")


def names(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for, as a dotted path."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def findings(source: str, test: bool = False) -> list[str]:
    """What a source does that could run code from a file, or write where it was not told to.

    Tests may save pickled arrays: what must be refused has to be made.
    """
    tree = ast.parse(source)
    known, found = names(tree), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module] if node.module.split(".")[0] in MODULES else []
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" in node.value:
            found += [match.group() for match in TEXT.finditer(node.value)]  # code for another process
        elif isinstance(node, ast.Call):
            found += _call(node, known, test)
    return found


def _call(node: ast.Call, known: dict[str, str], test: bool) -> list[str]:
    written = ast.unparse(node.func)
    head, dot, rest = written.partition(".")
    call = known.get(head, head) + dot + rest
    method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    options = {k.arg: ast.unparse(k.value) for k in node.keywords}
    making = test and not re.search("load|read", call)
    if call in CALLS or method in METHODS:
        return [call]
    if options.get("allow_pickle", "False") != "False" and not making:
        return [f"{call}(allow_pickle={options['allow_pickle']})"]
    if call in {"numpy.load", "numpy.save"} and "allow_pickle" not in options and not making:
        return [f"{call} without allow_pickle=False"]
    if call in {"numpy.savez", "numpy.savez_compressed"} and not test:
        return [call]
    # Strings of Polars have a method of this name, archives have another.
    ours = {"features", "graphrec", "graphrec.features.extract"}
    if method == "extract" and known.get(head) not in ours and not written.endswith(".str.extract"):
        return [call]
    if call in {"__import__", "importlib.import_module"} and node.args:
        first = node.args[0]
        if isinstance(first, ast.Constant) and str(first.value).split(".")[0] in MODULES:
            return [f"{call}({first.value!r})"]
    return []


ALLOWED = {
    "graphrec/features/vector_files.py": {"torch.load"},  # weights only; READERS below tries it
    "tests/test_docs.py": {"exec"},  # the code blocks of the documentation are what it tests
    "tests/test_packaging.py": {"tarfile", "tar.extractall"},  # unpacks the sdist that it has just built
}


def test_no_source_reads_pickles_or_unpacks_archives() -> None:
    wrong = []
    for path in SOURCES:
        name = str(path.relative_to(ROOT))
        found = findings(path.read_text(encoding="utf-8"), test=name.startswith("tests/"))
        wrong += [f"{name}: {one}" for one in found if one not in ALLOWED.get(name, ())]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import numpy, joblib as j",
        "from pickle import loads",
        "from cloudpickle import *",
        "def f():\n    import dill",
        "import tarfile",
        "import torch\ntorch.load('x')",
        "import torch\ntorch.load('x', weights_only=True)",
        "import torch as t\nt.save({}, 'x')",
        "from torch import load as read\nread('x')",
        "import torch\ntorch.jit.load('x')",
        "import numpy as np\nnp.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import numpy as np\nnp.load('x', allow_pickle=flag)",
        "from numpy import load\nload('x')",
        "import numpy\nnumpy.load(file='x', mmap_mode='r')",
        "import numpy as np\nnp.lib.format.read_array(f, allow_pickle=True)",
        "import numpy as np\nnp.save('x', a)",
        "import numpy as np\nnp.savez('x', a=a)",
        "import yaml\nyaml.load(f, Loader=yaml.Loader)",
        "from yaml import unsafe_load\nunsafe_load(f)",
        "import pandas as pd\npd.read_pickle('x')",
        "frame.to_pickle('x')",
        "import zipfile\nzipfile.ZipFile('x').extractall('y')",
        "import zipfile\nwith zipfile.ZipFile('x') as z:\n    z.extract('a')",
        "import shutil\nshutil.unpack_archive('x')",
        "eval('1')",
        "exec('1')",
        "import builtins\nbuiltins.eval('1')",
        "__import__('pickle').loads(b'')",
        "import importlib\nimportlib.import_module('joblib')",
        "CODE = '''\nimport pickle\n'''",
        "CODE = '''\nnp.load(p, allow_pickle=True)\n'''",
    ],
)
def test_the_search_finds(source: str) -> None:
    assert findings(source)


@pytest.mark.parametrize(
    "source",
    [
        "import numpy as np\nnp.load('x', allow_pickle=False)",
        "import numpy as np\nnp.save('x', a, allow_pickle=False)",
        "import yaml\nyaml.safe_load(f)",
        "from zipfile import BadZipFile",
        "from features.extraction import extract\nextract(data, 'text', e, store)",
        "import polars as pl\npl.col('a').str.extract('b')",
        "model.eval()",
        "import re\nre.compile('x')",
        "import json\njson.load(f)",
        "from safetensors.torch import load_file, save\nsave(load_file('x'))",
        "text = 'a pickle is not loaded, see torch.load'",
    ],
)
def test_the_search_leaves_alone(source: str) -> None:
    assert not findings(source)


# -- files that would run code -------------------------------------------------------------------------------


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return open, (str(self.marker), "w")


def npy(marker: Path) -> bytes:
    """An array of objects, as NumPy stores it."""
    file = io.BytesIO()
    array = np.empty(1, dtype=object)
    array[0] = Trap(marker)
    np.lib.format.write_array(file, array, allow_pickle=True)
    return file.getvalue()


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as z:
        for name, data in members.items():
            z.writestr(name.replace("__", "/").replace("_", "."), data)
    return file.getvalue()


PAYLOADS: dict[str, Callable[[Path], bytes]] = {
    "npy": npy,
    "npz": lambda m: archive(train_npy=npy(m), test_npy=npy(m)),
    "pickle": lambda m: pickle.dumps(Trap(m)),
    "pt": lambda m: archive(archive__data_pkl=pickle.dumps(Trap(m)), archive__version=b"3"),
}


def from_npy(path: Path) -> None:
    FeatureTable.from_npy(path, communities(2, 20)[0], "image")


def from_file(path: Path) -> None:
    if path.suffix == ".pickle":
        path = path.rename(path.with_suffix(".pt"))
    FeatureTable.from_file(path, communities(2, 20)[0], "image")


def of_ids(path: Path) -> None:
    path = path.rename(path.with_suffix(".npy"))
    FeatureTable.from_array(np.ones((20, 2)), communities(2, 20)[0], "image", ids=read_ids(path))


def of_gowalla(path: Path) -> None:
    path.rename(path.with_name("gowalla_lightgcn_split.npz"))
    load_dataset("gowalla", path.parent)


def of_sslrec(path: Path) -> None:
    path.rename(path.with_name("sparse_yelp.npz"))
    load_dataset("sslrec-yelp", path.parent)


def of_checkpoint(path: Path) -> None:
    model = MF.build(communities(2, 20)[0])
    files = {"model": {"name": path.name, "sha256": sha256_file(path)}}
    whole = {**checkpoint.FORMAT.header, "files": files, "head": {"step": 1}}
    bundle.write_sealed(path.parent / "state.json", whole)
    checkpoint.read(path.parent, model)


def of_bundle(path: Path) -> None:
    files = {p: {"name": path.name, "sha256": sha256_file(path)} for p in ("ids", "array")}
    bundle.write_sealed(path.parent / "b.json", {"format": 1, "files": files, "head": {}})
    opened = Bundle(path.parent / "b.json", bundle.FileFormat("test"))
    with pytest.raises(GraphrecError):
        opened.ids("ids")
    with pytest.raises(GraphrecError):
        opened.array("array", mmap=True)
    opened.array("array")


def of_open_clip(path: Path) -> None:
    pytest.importorskip("open_clip")
    weights = path.with_suffix(".safetensors")
    path.rename(weights)
    _ = features.extractor("open_clip", model="RN50", pretrained=weights).dim


def of_open_clip_by_its_name(path: Path) -> None:
    pytest.importorskip("open_clip")
    features.extractor("open_clip", model="RN50", pretrained=path)


def of_sentence_transformers(name: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        pytest.importorskip("sentence_transformers")
        path.rename(path.with_name(name))
        bert = '{"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 16, "vocab_size": 17}'
        (path.parent / "config.json").write_text(bert)
        features.extractor("sentence-transformers", model=path.parent).encode(["a"])

    return read


READERS: dict[str, Callable[[Path], object]] = {
    "read_array": lambda p: read_array(p),
    "read_array, mapped": lambda p: read_array(p, mmap=True),
    "FeatureTable.from_npy": from_npy,
    "FeatureTable.from_file": from_file,
    "read_ids": of_ids,
    "gowalla": of_gowalla,
    "sslrec-yelp": of_sslrec,
    "checkpoint": of_checkpoint,
    "bundle": of_bundle,
    "open_clip": of_open_clip,
    "open_clip, by its name": of_open_clip_by_its_name,
    "sentence-transformers": of_sentence_transformers("model.safetensors"),
    "sentence-transformers, pickled": of_sentence_transformers("pytorch_model.bin"),
}


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_would_run_code_is_refused(tmp_path: Path, reader: str, payload: str) -> None:
    if reader == "open_clip" and payload != "pickle":
        pytest.skip("building the tower takes long; one payload is enough")
    marker, path = tmp_path / "ran", tmp_path / "folder" / f"file.{payload}"
    path.parent.mkdir()
    path.write_bytes(PAYLOADS[payload](marker))
    with pytest.raises(GraphrecError) as refused:
        READERS[reader](path)
    advice = f"{refused.value} {refused.value.__cause__}".lower()
    assert not re.search(r"unsafe|allow_pickle|weights_only.{0,20}false", advice), advice
    assert not marker.exists()


def test_the_traps_work(tmp_path: Path) -> None:
    pickle.loads(PAYLOADS["pickle"](tmp_path / "one")).close()
    np.load(io.BytesIO(npy(tmp_path / "two")), allow_pickle=True)
    assert (tmp_path / "one").exists()
    assert (tmp_path / "two").exists()


# -- ids that look like paths --------------------------------------------------------------------------------

HOSTILE = [
    "../x", "/etc/passwd", "a/b", "con", "..", ".", "x\ty", "a\nb", "y" * 5000, "-rf", "%2e%2e%2fz", "~root",
    "C:\\x", "\\\\host\\x", " ", "🦉", "*", "$HOME", "x.png", "..\\..\\x",
]  # fmt: skip


class Reading(Hashing):
    """Hashes pictures instead of texts."""

    kind = "image"

    def encode(self, batch: list[Any]) -> np.ndarray:
        return super().encode([picture.tobytes().hex() for picture in batch])


def write_everything(root: Path, ids: list[str]) -> Iterator[str]:
    """Everything that writes files, for one catalog; yields names of the files, digests left out."""
    (root / "pictures").mkdir(parents=True)
    for n in range(3):
        picture = np.full((4, 4, 3), 80 * n, dtype=np.uint8)
        features.image.Image.fromarray(picture).save(root / "pictures" / f"{n}.png")
    images = [f"{n % 3}.png" for n in range(len(ids))]
    plain = catalog(ids, text=Content("text", [f"text {n}" for n in range(len(ids))]))
    data = plain.with_content(image=Content("image", images, root / "pictures"))
    match_images(root / "pictures", ids)
    data.save(root / "dataset")
    store = FeatureStore(root / "store")
    for field, extractor in (("text", Hashing()), ("image", Reading())):
        extract(Dataset.load(root / "dataset"), field, extractor, store, shard_size=8)
    run = runs.train(
        "mf", data, out=root / "run", select="none",
        train_options={"epochs": 1, "device": "cpu", "progress": False},
    )  # fmt: skip
    recommender = Recommender.from_model(run.model, data)
    recommender.save(root / "recommender")
    recommender.export(root / "recommendations.parquet", k=3)
    if importlib.util.find_spec("faiss") is not None:
        recommender.export_faiss(root / "index")
    evaluate(run.model, data.train, seen=data.valid, k=3).to_parquet(root / "report.parquet")
    for path in root.rglob("*"):
        yield re.sub(r"[0-9a-f]{12,}", "#", str(path.relative_to(root)))


def test_files_do_not_depend_on_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"plain": [f"i{n}" for n in range(len(HOSTILE))], "hostile": HOSTILE}
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    written = {}
    for place, ids in places.items():
        written[place] = sorted(write_everything(tmp_path / place / "root", ids))
    assert written["plain"] == written["hostile"]
    assert len(written["plain"]) > 40
    outside = [
        p for p in tmp_path.rglob("*") if not any(p.is_relative_to(tmp_path / x / "root") for x in places)
    ]
    assert sorted(p.name for p in outside) == ["here", "hostile", "plain"]
    data = Dataset.load(tmp_path / "hostile/root/dataset")
    assert list(data.items.ids) == HOSTILE
    assert FeatureStore(tmp_path / "hostile/root/store").load_tables(data)["image"].present.all()
    assert set(Recommender.load(tmp_path / "hostile/root/recommender").items.ids) == set(HOSTILE)
