"""Results that are kept within a context."""

from __future__ import annotations

from graphrec.core.reuse import Reused


def test_the_last_results_are_found_within_the_context_alone() -> None:
    last: Reused[int, str] = Reused("words", most=2)

    def find(key: int) -> str | None:
        return last.find(lambda other: other == key)

    last.add(1, "one")
    assert find(1) is None
    assert not last.active
    with last.kept():
        assert last.active
        for key, word in enumerate(["zero", "one", "two"]):
            last.add(key, word)
        assert [find(key) for key in range(4)] == [None, "one", "two", None]
        with last.kept():
            assert find(2) is None
            last.add(3, "three")
        assert find(3) is None
        assert find(2) == "two"
        last.clear()
        assert find(2) is None
        last.add(4, "four")
        assert find(4) == "four"
    assert find(4) is None
