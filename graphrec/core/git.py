"""Calls git so that reading a repository runs no program that the repository names, and reaches no network.

The configuration, hooks and attributes of a clone may name programs, and git runs them while it reads. Every
call of git in this project goes through :func:`command` and :func:`environment`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

SETTINGS = (
    "core.alternateRefsCommand=",
    "core.askPass=",
    "core.fsmonitor=false",
    "core.gitProxy=",
    "core.hooksPath=/dev/null",
    "core.quotePath=false",
    "core.sshCommand=false",
    "credential.helper=",
    "diff.ignoreSubmodules=none",
    "diff.renames=true",
    "log.diffMerges=first-parent",
    "log.showRoot=true",
    "log.showSignature=false",
    "protocol.allow=never",
    "uploadpack.packObjectsHook=",
)
"""Settings that override those of the user and of the clone."""
ENVIRONMENT = {
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_NO_LAZY_FETCH": "1",  # a missing blob is an error, not a download
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}
REDIRECTIONS = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS",
    "GIT_DIR",
    "GIT_EXTERNAL_DIFF",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_WORK_TREE",
)
"""Variables, such as those a hook of git is started with, that would make git read another repository."""
FILTER_PARTS = {"clean": "", "process": "", "smudge": "", "required": "false"}


def command(folder: str | Path, *arguments: str) -> list[str]:
    """A git command line, to be started with :func:`environment`.

    Args:
        folder: where git is run.
        arguments: command and options.
    """
    settings = [part for setting in SETTINGS for part in ("-c", setting)]
    return ["git", "-C", str(folder), "--no-pager", *settings, *arguments]


def environment(settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """Environment variables of a git process.

    Args:
        settings: further configuration; names may hold any character.
    """
    variables = {name: value for name, value in os.environ.items() if name not in REDIRECTIONS}
    variables |= ENVIRONMENT
    if settings:
        variables["GIT_CONFIG_COUNT"] = str(len(settings))
        for number, (name, value) in enumerate(settings.items()):
            variables[f"GIT_CONFIG_KEY_{number}"] = name
            variables[f"GIT_CONFIG_VALUE_{number}"] = value
    return variables


def output(folder: str | Path, *arguments: str, settings: Mapping[str, str] | None = None) -> bytes | None:
    """What a short git command prints.

    Returns:
        None if it fails, takes more than five seconds, or git is not installed.
    """
    try:
        result = subprocess.run(
            command(folder, *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=5,
            check=False,
            env=environment(settings),
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if result.returncode else result.stdout


def changed_files(folder: str | Path) -> list[str] | None:
    """Tracked files of a checkout that differ from its commit, as paths from its top folder.

    Submodules are left out. Filters such as those of Git LFS are not run, so a filtered file whose time has
    changed counts as changed.

    Returns:
        None outside a checkout.
    """
    names = output(folder, "config", "-z", "--name-only", "--get-regexp", r"^filter\.") or b""
    drivers = {name.decode("utf-8", "replace").rpartition(".")[0] for name in names.split(b"\0") if name}
    settings = {f"{driver}.{part}": value for driver in drivers for part, value in FILTER_PARTS.items()}
    arguments = (
        "status",
        "--porcelain",
        "-z",
        "--untracked-files=no",
        "--ignore-submodules=all",
        "--no-renames",
    )
    status = output(folder, *arguments, settings=settings)
    if status is None:
        return None
    return [os.fsdecode(entry[3:]) for entry in status.split(b"\0") if entry]
