"""The package's front door: what ``import graphrec`` offers, and what it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import graphrec as gr
from graphrec.models.freedom import FREEDOM


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_is_light_and_fast() -> None:
    code = (
        "import time, sys; t = time.process_time(); import graphrec as gr; gr.__version__; gr.DataError; "
        "assert time.process_time() - t < 1; print([m for m in ('torch', 'polars') if m in sys.modules])"
    )
    assert python(code) == "[]"


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ({}, "5000 None"),
        ({"OMP_WAIT_POLICY": "active"}, "None active"),
        ({"GOMP_SPINCOUNT": "7"}, "7 None"),
    ],
)
def test_threads_that_wait_spin_briefly_unless_told_otherwise(
    before: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    show = "print(os.environ.get('GOMP_SPINCOUNT'), os.environ.get('OMP_WAIT_POLICY'))"
    assert python(f"import os, graphrec; {show}") == expected
    if not before:
        assert python(f"import os, torch, graphrec; {show}") == "None None", "too late: torch has read it"


def test_every_public_name_is_there() -> None:
    from graphrec import models

    for name in gr.__all__:
        assert getattr(gr, name) is not None
    assert set(dir(gr)) == set(gr.__all__)
    assert gr.models is models
    assert gr.models.FREEDOM is FREEDOM
    assert gr.__version__[0].isdigit()
    with pytest.raises(AttributeError, match="Recomender"):
        _ = gr.Recomender
