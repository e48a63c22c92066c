"""Histories read from git: every kind of commit, people with several names, clones that are broken."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from histories import ADA, BOB, DAY, START, History, git, read, who, worked

from graphrec.core.errors import ConfigError, DataError, UnknownIdError
from graphrec.data import Dataset
from graphrec.data.git import MiningConfig, read_histories
from graphrec.data.git.log import Repository
from graphrec.data.git.mining import mine
from graphrec.data.git.people import People, Person, is_bot

EVE = ("Eve Noether", "eve@engine.test")
BOT = ("dependabot[bot]", "49699333+dependabot[bot]@users.noreply.github.com")


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "work" / "proj.git")


# -- commits -------------------------------------------------------------------------------------------------


def test_people_files_and_times(history) -> None:
    history.commit({"src/a.py": "1", "src/b.py": "1"}, time=START)
    history.commit({"src/a.py": "2"}, who=BOB, time=START + 5)
    history.commit({"src/a.py": "3"}, time=START + 9)
    data = read(history.write())
    ada, bob = who(data, ADA[1]), who(data, BOB[1])
    assert worked(data) == {"src/a.py": {ada, bob}, "src/b.py": {ada}}
    assert data.items.ids == ("proj.git/src/a.py", "proj.git/src/b.py")
    assert sorted(data.train.times.tolist()) == [START, START, START + 5]
    assert data.content["code"].values == ("3", "1")
    assert data.content["path"].values == ("src a py", "src b py")


def test_the_time_can_be_that_of_the_last_contribution(history) -> None:
    """Also where two addresses are one person's, and where work waits for a renaming on another branch."""
    history.commit({"a.py": "1"}, time=START)
    history.commit({"a.py": "2"}, who=(ADA[0], "ada@home.test"), time=START + 50)
    history.commit({"a.py": "3"}, time=START + 20)
    history.commit({"a.py": "4"}, branch="side", who=BOB, time=START + 60)
    history.commit({"a.py": "5"}, branch="side", who=BOB, time=START + 70)
    history.commit(rename={"a.py": "b.py"}, time=START + 30)
    history.commit({"b.py": "6"}, merge=("side",), time=START + 80)
    clone = history.write()
    for when, ada, bob in (("first", START, START + 60), ("last", START + 50, START + 70)):
        data = read(clone, config=MiningConfig(when=when))
        times = dict(zip(data.train.users.tolist(), data.train.times.tolist(), strict=True))
        assert times[data.users.index(who(data, BOB[1]))] == bob
        assert times[data.users.index(who(data, ADA[1]))] == ada


def test_what_was_done_under_another_name_counts(history) -> None:
    history.commit({"old.py": "x" * 50, "stays.py": "y"})
    history.commit({"old.py": "z" * 50}, who=BOB)
    history.commit(rename={"old.py": "pkg/new.py"}, who=EVE)
    history.commit({"old.py": "another file"}, who=BOB)
    history.commit(rename={"pkg/new.py": "pkg/newest.py"})
    data = read(history.write())
    ada, bob, eve = (who(data, person[1]) for person in (ADA, BOB, EVE))
    assert worked(data) == {"pkg/newest.py": {ada, bob, eve}, "stays.py": {ada}, "old.py": {bob}}


def test_files_that_are_gone_are_left_out_and_those_that_came_back_keep_their_people(history) -> None:
    history.commit({"gone.py": "1", "back.py": "1"})
    history.commit({"gone.py": None, "back.py": None}, who=BOB)
    history.commit({"back.py": "2"}, who=EVE)
    data = read(history.write())
    assert worked(data) == {"back.py": {who(data, p[1]) for p in (ADA, BOB, EVE)}}


def test_work_on_a_branch_that_parted_before_a_renaming_is_found(history) -> None:
    history.commit({"old.py": "line\n" * 20})
    history.commit({"old.py": "line\n" * 20 + "more\n"}, who=BOB, branch="side")
    history.commit(rename={"old.py": "new.py"}, who=EVE)
    history.commit({"new.py": "line\n" * 20 + "more\n"}, merge=("side",))
    data = read(history.write())
    assert worked(data)["new.py"] == {who(data, p[1]) for p in (ADA, BOB, EVE)}


def test_merges_and_octopuses(history) -> None:
    history.commit({"a.py": "1"})
    for branch, person in (("one", BOB), ("two", EVE)):
        history.commit({f"{branch}.py": "1"}, who=person, branch=branch)
    merger = ("Max Planck", "max@engine.test")
    history.commit(
        {"one.py": "1", "two.py": "1", "evil.py": "made while merging"}, who=merger, merge=("one", "two")
    )
    path = history.write()
    plain = read(path)
    assert plain.n_users == 3
    assert "evil.py" not in worked(plain)
    merging = read(path, config=MiningConfig(merges=True))
    assert worked(merging)["evil.py"] == {who(merging, merger[1])}
    assert worked(merging)["one.py"] == {who(merging, BOB[1]), who(merging, merger[1])}


def test_submodules_links_binaries_and_what_is_vendored(history) -> None:
    history.commit(
        {"a.py": "1", "vendor/lib.py": "1", "logo.png": b"\x89PNG\0", "odd.py": b"a\0b", "x.min.js": "1"}
    )
    history.commit({"sub": "1" * 40}, mode="160000")
    history.commit({"link.py": "a.py"}, mode="120000")
    history.commit({"yarn.lock": "1", "package-lock.json": "{}"})
    path = history.write()
    data = read(path)
    assert set(worked(data)) == {"a.py", "odd.py"}
    assert data.content["code"].values == ("1", None)
    everything = read(path, config=MiningConfig(vendored=True, extensions=None))
    assert set(worked(everything)) == {"a.py", "odd.py", "vendor/lib.py", "logo.png", "x.min.js", "yarn.lock",
                                       "package-lock.json"}  # fmt: skip
    assert set(worked(read(path, config=MiningConfig(extensions=("js",), vendored=True)))) == {"x.min.js"}


def test_names_that_are_not_utf8_or_hold_odd_characters(history, tmp_path) -> None:
    names = [
        b"caf\xe9.py",
        "caf\u00e9/\u4e2d.py".encode(),
        b'"quoted".py',
        b"tab\there.py",
        b"new\nline.py",
        b":colon.py",
    ]
    history.commit(dict.fromkeys(names, "1"))
    history.commit(dict.fromkeys(names, "2"), who=BOB)
    data = read(history.write())
    assert len(data.train) == 12
    found = {str(i).partition("/")[2] for i in data.items.ids}
    assert found == {'"caf\\351.py"', "caf\u00e9/\u4e2d.py", '"\\042quoted\\042.py"', "tab\there.py",
                     "new\nline.py",                     ":colon.py"}  # fmt: skip
    data.save(tmp_path / "saved")
    assert Dataset.load(tmp_path / "saved") == data


def test_commits_of_too_many_files_and_of_programs_are_left_out_but_their_renamings_are_followed(
    history,
) -> None:
    history.commit({f"f{i}.py": f"{i}" for i in range(6)})
    history.commit({f"f{i}.py": f"{i}!" for i in range(6)}, who=BOB)
    history.commit(rename={"f0.py": "g0.py"}, who=BOT)
    history.commit({"g0.py": "2"}, who=EVE)
    path = history.write()
    data = read(path)
    assert worked(data)["g0.py"] == {who(data, p[1]) for p in (ADA, BOB, EVE)}
    assert data.meta["repositories"]["proj.git"]["commits of programs"] == 1
    with pytest.raises(DataError, match="no contribution is left"):
        read(path, config=MiningConfig(max_files=1, revision="HEAD~2"))
    small = read(path, config=MiningConfig(max_files=5))
    assert worked(small) == {"g0.py": {who(small, EVE[1])}}
    assert small.meta["repositories"]["proj.git"]["commits of too many files"] == 2
    assert len(worked(read(path, config=MiningConfig(bots=True)))["g0.py"]) == 4


def test_times_from_1970_to_2038_and_clocks_that_run_ahead(history) -> None:
    history.commit({"a.py": "1"}, time=0)
    history.commit({"a.py": "2"}, who=BOB, time=2**31 + 10)
    history.commit({"a.py": "3"}, who=EVE, time=2**31 + 10**6, committed=START)
    data = read(history.write())
    assert sorted(data.train.times.tolist()) == [0, START, 2**31 + 10]
    by_commit = read(history.path, config=MiningConfig(clock="commit"))
    assert sorted(by_commit.train.times.tolist()) == [0, START, 2**31 + 10]


def test_empty_commits_and_empty_repositories(history, tmp_path) -> None:
    history.commit({"a.py": "1"})
    history.commit({}, who=BOB)
    history.commit({}, who=EVE, message="\x01nasty\n\nCo-authored-by: nobody\n")
    data = read(history.write())
    assert data.n_users == 1
    empty = tmp_path / "empty"
    git("init", "-q", str(empty))
    assert read_histories([history.path, empty], split={"name": "chronological", "test": 0}).n_items == 1
    with pytest.raises(DataError, match="no commits yet"):
        read(empty)


# -- people --------------------------------------------------------------------------------------------------


def test_one_person_with_four_addresses(history) -> None:
    history.commit({"a.py": "1"}, who=("Ada Lovelace", "ada@engine.test"))
    history.commit({"a.py": "2"}, who=("Ada Lovelace", "ADA@work.example"))
    history.commit({"a.py": "3"}, who=("ada", "12345+adal@users.noreply.github.com"))
    history.commit({"a.py": "4"}, who=("Ada Lovelace", "adal@users.noreply.github.com"))
    history.commit({"b.py": "1"}, who=("Ada Lovelace", "adal@users.noreply.github.com"))
    history.commit({"b.py": "2"}, who=("root", "root@localhost"))
    history.commit({"b.py": "3"}, who=("root", "someone@else.org"))
    data = read(history.write())
    assert data.n_users == 3
    assert (
        len({who(data, e) for e in ("ada@engine.test", "ada@work.example", "adal@users.noreply.github.com")})
        == 1
    )


def test_mailmap_is_honored(history) -> None:
    history.commit({".mailmap": f"{ADA[0]} <{ADA[1]}> <other@old.example>\n"})
    history.commit({"a.py": "1"}, who=("al", "other@old.example"))
    assert read(history.write()).n_users == 1


def test_one_name_in_two_repositories_is_two_people(tmp_path) -> None:
    made = []
    for title, email in (("one", "j1@a.example"), ("two", "j2@b.example")):
        history = History(tmp_path / title / f"{title}.git")
        history.commit({"a.py": "1"}, who=("John Smith", email))
        made.append(history.write())
    data = read_histories(made, split={"name": "chronological", "test": 0})
    assert data.n_users == 2
    assert data.nodes["repository"].ids == ("one.git", "two.git")


def test_nothing_personal_is_kept(history, tmp_path) -> None:
    history.commit({"a.py": "1"}, by=BOB, message=f"work\n\nCo-authored-by: {EVE[0]} <{EVE[1]}>\n")
    history.commit({"a.py": "2"}, who=BOT)
    data = read(history.write(), salt="pepper")
    data.save(tmp_path / "saved")
    written = b"".join(p.read_bytes() for p in sorted((tmp_path / "saved").iterdir()))
    for person in (ADA, BOB, EVE, BOT):
        for part in (*person[0].split(), person[1]):
            assert part.encode() not in written
    assert b"pepper" not in written
    assert who(data, ADA[1], "pepper") != who(read(history.path), ADA[1])
    with pytest.raises(UnknownIdError):
        data.nodes["address"].index(People().lookup(ADA[1]))


def test_who_did_what_in_a_repository(history) -> None:
    history.commit({"tests/test_a.py": "1"}, by=BOB, message=f"w\n\nCo-authored-by: {EVE[0]} <{EVE[1]}>\n")
    history.commit({"docs/a.rst": "1"}, who=BOB)
    history.commit({"a.py": "1"}, who=EVE)
    data = read(history.write())
    ada, bob, eve = (data.users.index(who(data, p[1])) for p in (ADA, BOB, EVE))
    did = {key[1]: set(edges[0].tolist()) for key, edges in data.relations.items() if key[0] == "user"}
    assert did == {"authored": {ada, bob, eve}, "committed": {bob}, "co_authored": {eve}, "tested": {ada},
                   "documented": {bob}}  # fmt: skip
    assert worked(data)["tests/test_a.py"] == {who(data, ADA[1])}
    both = read(history.path, config=MiningConfig(co_authors=True))
    assert worked(both)["tests/test_a.py"] == {who(both, ADA[1]), who(both, EVE[1])}


def test_programs_are_told_from_people() -> None:
    for name, email in (
        (b"dependabot[bot]", b"x"),
        (b"pre-commit-ci", b"x"),
        (b"pytest bot", b"x"),
        (b"x", b"bot@a.b"),
    ):
        assert is_bot(Person(name, email))
    for name, email in (
        (b"Abbot Talbot", b"talbot@a.b"),
        (b"Robot Smith", b"r.smith@a.b"),
        (b"x", b"7+x-deepsource@y.z"),
    ):
        assert not is_bot(Person(name, email))


# -- what is known when --------------------------------------------------------------------------------------


def test_the_tree_and_the_contents_are_those_of_the_cut(history) -> None:
    cut = START + 10 * DAY
    history.commit({"a.py": "before", "old.py": "x" * 40}, time=START)
    history.commit({"b.py": "before"}, who=BOB, time=START + DAY)
    history.commit({"a.py": "after, by eve", "new.py": "after"}, who=EVE, time=cut)
    history.commit(rename={"old.py": "moved.py"}, who=EVE, time=cut + DAY)
    history.commit({"moved.py": "rewritten"}, who=BOB, time=cut + 2 * DAY)
    path = history.write()
    data = read(path, split={"name": "cut", "valid": cut, "test": cut + 2 * DAY})
    assert set(worked(data)) == {"a.py", "b.py", "old.py"}
    assert dict(zip(data.items.ids, data.content["code"].values, strict=True)) == {
        "proj.git/a.py": "before", "proj.git/b.py": "before", "proj.git/old.py": "x" * 40,
    }  # fmt: skip
    assert (len(data.train), len(data.valid), len(data.test)) == (3, 0, 1), "eve is nobody before the cut"
    assert data.meta["of people or files new after the cut"] == 2
    assert str(data.items[int(data.test.items[0])]) == "proj.git/old.py"
    assert data.n_users == len(np.unique(data.relations["user", "authored", "repository"][0])) == 2
    late = read(path)
    assert "after, by eve" in late.content["code"].values
    with pytest.raises(DataError, match="no contribution"):
        read(path, split={"name": "cut", "valid": START, "test": START})


def of_train(data) -> list[object]:
    """All that models learn from, byte for byte."""
    arrays = [data.train.users, data.train.items, data.train.times, *data.relations.values()]
    texts = [content.values for content in data.content.values()]
    return [data.users.ids, data.items.ids, *map(np.ndarray.tobytes, arrays), *map(list, texts)]


@pytest.mark.parametrize("when", ["first", "last"])
def test_later_commits_change_nothing_that_is_learned_from(tmp_path, when) -> None:
    """Who does what later, new people and files, and a person who comes back to a file."""
    early = [(ADA, 0), (ADA, 1), (ADA, 2), (BOB, 2), (BOB, 3), (BOB, 4), (ADA, 1)]
    later = {
        "one": [(ADA, 3), (BOB, 0), (EVE, 0), (ADA, 1)],
        "other": [(EVE, 3), (ADA, 4), (BOB, 2), (BOB, 1)],
    }
    found = []
    for name, rest in later.items():
        history = History(tmp_path / name / "proj.git")
        for day, (person, file) in enumerate(early):
            history.commit({f"f{file}.py": f"day {day}"}, who=person, time=START + day * DAY)
        for day, (person, file) in enumerate(rest, 20):
            files = {f"f{file}.py": f"{name}, day {day}", f"{name}/new.py": "new", f"{name}/{day}.py": "new"}
            history.commit(files, who=person, time=START + day * DAY)
        cut = {"name": "cut", "valid": START + 10 * DAY, "test": START + 21 * DAY}
        found.append(read(history.write(), split=cut, config=MiningConfig(when=when)))
    one, other = found
    assert of_train(one) == of_train(other)
    assert worked_by(one) == [{("A", "f3.py")}, {("B", "f0.py")}]
    assert worked_by(other) == [set(), {("A", "f4.py"), ("B", "f1.py")}]
    ada = one.users.index(who(one, ADA[1]))
    back = one.train.times[one.train.positions([ada], [one.items.index("proj.git/f1.py")])]
    assert back.tolist() == [START + (1 if when == "first" else 6) * DAY]


def worked_by(data) -> list[set[tuple[str, str]]]:
    """Who worked on which file, in the validation and the test split."""
    names = {who(data, ADA[1]): "A", who(data, BOB[1]): "B"}
    return [
        {
            (names[str(data.users[int(user)])], str(data.items[int(item)]).rpartition("/")[2])
            for user, item in zip(part.users, part.items, strict=True)
        }
        for part in (data.valid, data.test)
    ]


def test_by_default_a_history_is_cut_at_one_time(history) -> None:
    for i in range(20):
        history.commit({f"f{i % 10}.py": f"{i}"}, who=(ADA, BOB)[i // 10], time=START + i * DAY)
    data = read_histories([history.write()])
    assert data.meta["split"]["name"] == "cut"
    assert (data.meta["split"]["valid"], data.meta["split"]["test"]) == (START + 16 * DAY, START + 18 * DAY)
    assert (len(data.train), len(data.valid), len(data.test)) == (16, 2, 2)
    one = read_histories(
        [history.path], split={"name": "cut", "valid": START + 16 * DAY, "test": START + 18 * DAY}
    )
    assert one.fingerprint == data.fingerprint
    with pytest.raises(DataError, match=r"proj\.git: no contribution.*check revision, cut"):
        read_histories([history.path], split={"name": "time", "valid": 0.5, "test": 0.49999})


def test_contents_are_from_before_the_first_contribution_that_is_held_out(history) -> None:
    for i in range(5):
        history.commit({f"f{i}.py": f"by bob {i}"}, who=BOB, time=START + i)
    for i in range(5):
        history.commit({f"f{i}.py": f"by ada {i}"}, time=START + 100 + i)
    history.commit({"f0.py": "by bob again"}, who=BOB, time=START + 200)
    data = read_histories([history.write()], split={"name": "chronological", "valid": 0.2, "test": 0.2})
    assert len(data.valid) == len(data.test) == 2
    code = dict(
        zip((str(i).rpartition("/")[2] for i in data.items.ids), data.content["code"].values, strict=True)
    )
    # The last two of each are held out: of f3 and f4, bob's making of them too.
    assert code == {
        "f0.py": "by bob again",
        "f1.py": "by ada 1",
        "f2.py": "by ada 2",
        "f3.py": None,
        "f4.py": None,
    }


def test_the_tree_of_directories(history) -> None:
    history.commit({"top.py": "1", "a/one.py": "1", "a/b/two.py": "1"})
    data = read(history.write())
    names = {k: v.ids for k, v in data.nodes.items()}
    assert names["directory"] == ("proj.git/a/", "proj.git/a/b/")
    edges = {key: [tuple(e) for e in value.T.tolist()] for key, value in data.relations.items()}
    at = {str(i).rpartition("/")[2]: n for n, i in enumerate(data.items.ids)}
    assert edges["item", "in", "directory"] == sorted([(at["one.py"], 0), (at["two.py"], 1)])
    assert edges["directory", "in", "directory"] == [(1, 0)]
    assert edges["directory", "in", "repository"] == [(0, 0)]
    assert edges["item", "in", "repository"] == [(at["top.py"], 0)]
    assert edges["item", "of", "repository"] == [(0, 0), (1, 0), (2, 0)]


# -- what is broken ------------------------------------------------------------------------------------------


def loosen(path: Path) -> None:
    """Takes a repository's pack apart, one file an object."""
    for pack in list((path / "objects" / "pack").glob("*.pack")):
        moved = Path(shutil.move(pack, path.parent / pack.name))
        pack.with_suffix(".idx").unlink()
        git("-C", str(path), "unpack-objects", "-q", stdin=moved.read_bytes())


def test_a_clone_that_breaks_midway_names_the_commit_and_gives_nothing(history) -> None:
    for i in range(30):
        history.commit({f"pkg{i}/a.py": f"{i}"})
    path = history.write()
    loosen(path)
    tree = git("-C", str(path), "rev-parse", "HEAD~20^{tree}").decode().strip()
    (path / "objects" / tree[:2] / tree[2:]).unlink()
    with pytest.raises(DataError, match=r"status 128 after commit [0-9a-f]{40}.*git fsck"):
        read(path)


def test_a_missing_content_is_an_error_and_the_history_can_be_read_without(history) -> None:
    history.commit({"a.py": "1", "b.py": "missing"})
    path = history.write()
    loosen(path)
    blob = git("-C", str(path), "rev-parse", "HEAD:b.py").decode().strip()
    file = path / "objects" / blob[:2] / blob[2:]
    file.unlink()
    with pytest.raises(DataError, match=rf"content {blob} cannot be read.*missing"):
        read(path)
    assert read(path, code=False).n_items == 2


def test_shallow_clones_are_refused(history, tmp_path) -> None:
    for i in range(4):
        history.commit({"a.py": f"{i}"})
    path = history.write()
    git("clone", "-q", "--depth", "2", f"file://{path}", str(tmp_path / "shallow"))
    with pytest.raises(DataError, match=r"shallow clone.*unshallow"):
        read(tmp_path / "shallow")
    git("clone", "-q", f"file://{path}", str(tmp_path / "whole"))
    assert read(tmp_path / "whole").n_items == 1


def test_what_is_no_clone_is_said(history, tmp_path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read(tmp_path / "nowhere")
    (tmp_path / "plain").mkdir()
    with pytest.raises(DataError, match=f"{tmp_path / 'plain'}: not a git repository"):
        read(tmp_path / "plain")
    git("init", "-q", str(tmp_path / "empty"))
    with pytest.raises(DataError, match=f"{tmp_path / 'empty'}: no commits yet"):
        read(tmp_path / "empty")
    history.commit({"sub/a.py": "1"})
    path = history.write()
    with pytest.raises(DataError, match="nosuch"):
        read(path, config=MiningConfig(revision="nosuch"))
    with pytest.raises(DataError, match="has no revision"):
        read(path, config=MiningConfig(revision="--output=/tmp/x"))
    with pytest.raises(ConfigError, match="one name each"):
        read(path, names=["a", "b"])


def test_a_folder_in_a_clone_stands_for_the_clone(history, tmp_path, monkeypatch) -> None:
    history.commit({"a.py": "1", "odd ä\nname/b.py": "2"})
    clone = tmp_path / "clone"
    git("clone", "-q", str(history.write()), str(clone))
    whole = read(clone)
    assert whole.n_items == 2
    monkeypatch.chdir(clone / "odd ä\nname")
    assert Repository(".").path == clone
    assert read(Path()) == read(clone / "odd ä\nname") == whole


def test_names_come_from_where_a_clone_came_from(history, tmp_path) -> None:
    history.commit({"a.py": "1"})
    path = history.write()
    git("clone", "-q", str(path), str(tmp_path / "clone"))
    assert read(tmp_path / "clone").nodes["repository"].ids == ("clone",)
    for address in (
        "https://example.org/ada/engine.git",
        "git@example.org:ada/engine",
        "ssh://git@h/x/ada/engine/",
    ):
        git("-C", str(tmp_path / "clone"), "remote", "set-url", "origin", address)
        assert read(tmp_path / "clone").nodes["repository"].ids == ("ada/engine",)
    twice = read_histories([tmp_path / "clone", tmp_path / "clone"], split={"name": "chronological"})
    assert twice.nodes["repository"].ids == ("ada/engine-1", "ada/engine-2")
    assert read(path, names=["mine"]).items.ids == ("mine/a.py",)


def test_the_same_clone_gives_the_same_dataset(history) -> None:
    for i in range(12):
        history.commit({f"d{i % 3}/f{i}.py": f"{i}"}, who=(ADA, BOB, EVE)[i % 3])
    path = history.write()
    one, other = (read_histories([path]) for _ in range(2))
    assert one == other
    assert one.fingerprint == read_histories([path]).fingerprint
    assert mine(Repository(path), "x", People(), MiningConfig()).counts["commits"] == 12
