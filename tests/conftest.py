"""Shared fixtures: where real data is, and one thread, with which small tests are fastest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch reads it, and for the processes that tests start


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real datasets; tests that need it are skipped where there is none."""
    root = os.environ.get("GRAPHREC_DATA")
    if not root:
        pytest.skip("real data: set GRAPHREC_DATA to the folder that holds amazon-baby/ and the others")
    if not Path(root).is_dir():
        pytest.fail(f"GRAPHREC_DATA={root} is not a folder")
    return Path(root).resolve()
