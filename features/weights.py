"""Finds pretrained weights in the Hugging Face cache or on the hub, with timeouts and without pickles."""

from __future__ import annotations

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from graphrec.core.errors import FeatureError, missing_dependency
from graphrec.core.files import digest, sha256_file

TIMEOUT = 4.0
PICKLED = (".bin", ".ckpt", ".pkl", ".pt", ".pth")
CONVERT_HINT = (
    "loading a pickle can run code; if you trust the file, convert it once: "
    "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'model.safetensors')"
)


def refuse_pickle(path: Path) -> None:
    """Refuses pickled weight files.

    Raises:
        FeatureError: the file is a pickle; the message says how to convert it.
    """
    if path.suffix.lower() in PICKLED:
        raise FeatureError(f"{path}: pickled weights are refused, expected .safetensors; {CONVERT_HINT}")


def hub_file(repository: str, names: Iterable[str], alternative: str) -> Path:
    """The path of one file of a hub repository, from the cache or downloaded.

    Args:
        repository: ``owner/name``.
        names: file names to try, in order of preference.
        alternative: extractor to recommend if the weights are unavailable.

    Raises:
        FeatureError: the files are not cached and the hub is unreachable, or the repository has none of them.
    """
    hub = _hub()
    names = list(names)
    for name in names:
        try:
            return Path(hub.hf_hub_download(repository, name, local_files_only=True))
        except Exception:
            continue
    tried = []
    for name in names:
        reason = _hub_problem(f"{repository}/resolve/main/{name}")
        if reason is None:
            try:
                return Path(hub.hf_hub_download(repository, name, etag_timeout=TIMEOUT))
            except Exception as cause:
                reason = f"{type(cause).__name__}: {cause}".splitlines()[0]
        tried.append(f"{name}: {reason}")
        if not reason.startswith("HTTP 404"):
            break
    raise _unavailable(repository, "; ".join(tried), alternative)


def hub_directory(repository: str, alternative: str) -> Path:
    """The directory of a hub repository without pickled weights, from the cache or downloaded.

    Args:
        repository: ``owner/name``.
        alternative: extractor to recommend if the weights are unavailable.

    Raises:
        FeatureError: the repository is not cached and the hub is unreachable.
    """
    hub = _hub()
    patterns = ["*.safetensors", "*.json", "*.txt", "*.model"]
    try:
        cached = Path(hub.snapshot_download(repository, local_files_only=True, allow_patterns=patterns))
        if any(cached.rglob("*.safetensors")):
            return cached
    except Exception:
        pass
    reason = _hub_problem(f"{repository}/resolve/main/config.json")
    if reason is None:
        try:
            ignored = ["onnx/*", "openvino/*"]
            return Path(
                hub.snapshot_download(
                    repository, allow_patterns=patterns, ignore_patterns=ignored, etag_timeout=TIMEOUT
                )
            )
        except Exception as cause:
            reason = f"{type(cause).__name__}: {cause}".splitlines()[0]
    raise _unavailable(repository, reason, alternative)


def locate_model(model: str, owner: str, what: str, alternative: str) -> tuple[str, Path]:
    """The name to record of a pretrained model, and the directory to load it from.

    Args:
        model: a local directory, or a name on the hub.
        owner: owner of a name on the hub that names none.
        what: what is expected, such as ``"a CLAP model"``.
        alternative: extractor to recommend if the weights are unavailable.

    Raises:
        FeatureError: the directory does not exist, or the hub cannot serve the model.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return path.resolve().name, path
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise FeatureError(f"{path}: no such directory; expected {what} or a name on the hub")
    repository = model if "/" in model else f"{owner}/{model}"
    return repository, hub_directory(repository, alternative)


def weight_files(directory: Path, what: str) -> list[Path]:
    """The files of a pretrained model that determine the vectors: weights and configuration.

    Raises:
        FeatureError: there are no weights, or a module has only pickled ones.
    """
    for file in sorted(directory.rglob("*.bin")):
        if not any(file.parent.glob("*.safetensors")):
            refuse_pickle(file)
    weights = list(directory.rglob("*.safetensors"))
    if not weights:
        raise FeatureError(f"{directory}: no .safetensors file in it; expected {what}")
    small = [f for suffix in ("*.json", "*.txt", "*.model") for f in directory.rglob(suffix)]
    return weights + [f for f in small if f.name != "data_config.json"]


def files_sha256(paths: Iterable[Path], root: Path) -> str:
    """Hex sha256 over names (relative to ``root``) and contents of several files."""
    return digest("weights", [[p.relative_to(root).as_posix(), sha256_file(p)] for p in sorted(paths)])


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as cause:
        raise missing_dependency("huggingface_hub", "features") from cause
    return huggingface_hub


def _hub_problem(path: str) -> str | None:
    """Why the hub cannot serve a file, or None; runs in a thread because name resolution has no timeout."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "HF_HUB_OFFLINE is set"
    endpoint = constants.ENDPOINT.rstrip("/")
    answer: list[str | None] = [f"no answer from {endpoint} within {TIMEOUT:.0f} s"]

    def ask() -> None:
        request = urllib.request.Request(f"{endpoint}/{path}", method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT):
                answer[0] = None
        except urllib.error.HTTPError as cause:
            # A gated repository answers 401 here and may still be accessible with the user's token.
            answer[0] = f"HTTP 404 from {endpoint}" if cause.code == 404 else None
        except (OSError, ValueError) as cause:
            answer[0] = f"{endpoint}: {getattr(cause, 'reason', cause)}"

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT + 1)
    return answer[0]


def _unavailable(repository: str, reason: str, alternative: str) -> FeatureError:
    return FeatureError(
        f"the weights of {repository!r} are not in the Hugging Face cache and not available from the hub "
        f"({reason}); pass the path of a local checkpoint, copy a cache that contains them and set HF_HOME, "
        f"or use the extractor {alternative!r}, which needs no weights"
    )
