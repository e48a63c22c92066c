"""The name that is suggested for an unknown one."""

from __future__ import annotations

import pytest

from graphrec.core.errors import nearest


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("7", ["017", "007", "x7", "10", "0017"], "007"),
        ("007", ["017", "7", "70"], "7"),
        ("17", ["0017", "007", "017"], "017"),
        ("0", ["000", "10"], "000"),
        ("B0001", ["b0001", "B0011", "B0002"], "b0001"),
        (" foo", ["food", "foo", "fo"], "foo"),
        ("lightgnc", ["ngcf", "lightgcn", "lightgbm"], "lightgcn"),
        ("lightgnc", ["lightgcl", "lightgcn"], "lightgcn"),
        ("abc", ["abd", "abe"], "abd"),
    ],
)
def test_the_nearest_name(word, known, expected):
    for order in (known, known[::-1]):
        assert nearest(word, order) == f" Did you mean {expected!r}?"


def test_nothing_near():
    assert nearest("item", ["xyz", ""]) == ""
    assert nearest("", ["xyz"]) == ""
    assert nearest("a" * 300, ["a" * 300]) == ""
