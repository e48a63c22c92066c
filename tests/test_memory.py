"""Freed memory is kept for the next step, where the C library is glibc."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

import graphrec as gr
from graphrec import testing
from graphrec.training import trainer

SCRIPT = """
import resource, sys
import numpy as np
from graphrec.core.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory() == (sys.argv[2] == "set")
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(6 * 2**20)
before = faults()
for _ in range(20):
    np.ones(6 * 2**20)  # 48 MiB, 12,288 pages
print(faults() - before)
"""


def faults(*arguments: str, **environment: str) -> int:
    """Pages that 20 arrays of 48 MiB, one after another, got from the system."""
    command = [sys.executable, "-c", SCRIPT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_freed_blocks_are_used_again() -> None:
    given_back = faults("leave", "")
    kept = faults("keep", "set")
    assert given_back > 20 * 12_000 / 512  # pages may be of 2 MiB
    assert kept < given_back / 10


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_settings_of_the_user_stay() -> None:
    given_back = faults("keep", "left", MALLOC_MMAP_THRESHOLD_="1048576")
    assert given_back > 20 * 12_000 / 512


def test_a_training_on_a_cpu_keeps_freed_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(trainer, "keep_freed_memory", lambda: made.append(True))
    options = gr.TrainConfig(epochs=1, device="cpu", progress=False)
    gr.Trainer(options).fit(gr.models.MF.build(testing.communities(2, 20)[0]))
    assert made == [True]
