"""Files next, reviewers and experts, on repositories made here; the cache; what is wrong."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from histories import ADA, BOB, DAY, START, History
from kills import killed_after

from graphrec.code import answers, project
from graphrec.code.project import MANIFEST, Project
from graphrec.core.errors import ConfigError, DataError
from graphrec.data.git import MiningConfig

EVE = ("Eve Moore", "eve@engine.test")
NEW = ("Nia New", "nia@engine.test")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """Ada and Bob work on the parser together, Eve on the docs alone; Nia began on the parser yesterday."""
    history = History(tmp_path_factory.mktemp("clones") / "machine")
    day = START
    for i in range(4):
        for person in (ADA, BOB):
            day += DAY
            history.commit({"src/parse/lexer.py": f"{i}{person}", "src/parse/tree.py": f"{i}{person}"},
                           who=person, time=day)  # fmt: skip
    history.commit({"src/parse/errors.py": "x"}, who=BOB, time=day + DAY)
    history.commit({"src/parse/errors.py": "y"}, who=ADA, time=day + 2 * DAY)
    history.commit({"docs/index.md": "a", "docs/use.md": "b"}, who=EVE, time=day + 3 * DAY)
    history.commit({"src/main.py": "m"}, who=EVE, time=day - 700 * DAY)
    history.commit({"src/parse/lexer.py": "n"}, who=NEW, time=day + 4 * DAY)
    return history.write()


@pytest.fixture(scope="module")
def opened(clone, tmp_path_factory) -> Project:
    return Project.open(clone, cache=tmp_path_factory.mktemp("cache"))


def test_files_next_are_what_goes_with_yours(opened) -> None:
    found = answers.suggest(opened, "nia@engine.test", 3)
    assert [f.file for f in found[:2]] == ["src/parse/tree.py", "src/parse/errors.py"]
    assert found[0].score > found[1].score > 0
    assert found[0].why == (
        "worked on together with src/parse/lexer.py (2 did both); 1 of your files is in src/parse; "
        "2 people worked on it, 2 in the last year"
    )
    assert all(f.file != "src/parse/lexer.py" for f in found), "that one she has worked on"


def test_by_default_files_next_are_also_what_people_worked_on_lately(opened, clone, tmp_path) -> None:
    """Eve's file of long ago goes with hers of today; to nia, who shares none, neither is near."""
    plain = Project.open(clone, model="cochange", cache=tmp_path)
    weighted = Project.open(clone, model_options={"popular": 1.0}, cache=tmp_path)
    docs, old = "docs/index.md", "src/main.py"
    for made, times in ((plain, 0.0), (weighted, 1.0), (opened, 3.0)):
        score = {s.file: s.score for s in answers.suggest(made, "nia@engine.test", 10)}
        best = max(s.score for s in answers.suggest(plain, "nia@engine.test", 10))
        recent = made.data.train.recent_degree(365.0)
        share = recent / recent.max()
        for file in (docs, old):
            item = int(made.files(file)[0])
            assert score[file] == pytest.approx(times * best * share[item], rel=1e-4), file
        assert times == 0 or score[docs] > 2 * score[old]
    assert not answers.suggest(plain, "nia@engine.test", 1, under=old)[0].why.endswith("last year")
    with pytest.raises(ConfigError, match="'popular'"):
        Project.open(clone, model_options={"populer": 1.0}, cache=tmp_path)
    shutil.rmtree(tmp_path)  # of this clone there is one cache below, for the test of what it stores


def test_files_next_can_be_asked_for_under_a_path(opened) -> None:
    found = answers.suggest(opened, "nia@engine.test", 10, under="docs")
    assert {f.file for f in found} == {"docs/index.md", "docs/use.md"}
    assert answers.suggest(opened, "Nia New", 1) == answers.suggest(opened, "nia@engine.test", 1)


def test_reviewers_are_who_knows_the_files_or_what_goes_with_them(opened) -> None:
    found = answers.reviewers(opened, ["src/parse/errors.py"], exclude=["ada@engine.test"])
    assert [c.name for c in found] == ["Bob Babbage", "Nia New"]
    assert found[0].why.startswith("worked on it, last 3 days before the newest commit; works on ")
    assert found[1].why == "works on src/parse/lexer.py, which is worked on with it"
    assert [c.name for c in answers.reviewers(opened, ["docs/use.md"])] == ["Eve Moore"]


def test_a_score_is_what_is_known_of_the_files_and_of_what_goes_with_them(opened) -> None:
    """Of each file 1 for itself and 1 for all that it is worked on with; the mean over files."""
    train, neighbors = opened.data.train, opened.neighbors.toarray()
    known = np.zeros((train.n_users, train.n_items))
    known[train.users, train.items] = 0.5 ** ((train.times.max() - train.times) / DAY / 180)
    paths = ["src/parse/errors.py", "docs/use.md"]
    files = [int(opened.files(path)[0]) for path in paths]
    expected = sum(known[:, f] + known @ neighbors[f] / neighbors[f].sum() for f in files) / 2
    found = answers.reviewers(opened, paths, k=9)
    assert [c.score for c in found] == pytest.approx(sorted(expected[expected > 0], reverse=True), abs=1e-6)
    bob = next(c for c in found if c.name == "Bob Babbage")
    assert "errors.py" not in bob.why, "what is changed itself does not go with it"


def test_reasons_name_what_goes_with_a_change_most_and_not_the_change_itself(opened) -> None:
    changed = ["src/parse/lexer.py", "src/parse/tree.py"]
    assert "works on src/parse/errors.py, which is" in answers.reviewers(opened, changed)[0].why
    eve = answers.reviewers(opened, ["docs/index.md"])[0].why
    neighbors = opened.neighbors[opened.files("docs/index.md")].toarray()[0]
    use, main = (neighbors[opened.files(path)[0]] for path in ("docs/use.md", "src/main.py"))
    assert use > main > 0
    assert eve.endswith("works on docs/use.md, src/main.py, which are worked on with it")
    other = answers.reviewers(opened, ["docs/use.md"])[0].why
    assert other.endswith("works on docs/index.md, src/main.py, which are worked on with it")
    bob = next(c for c in answers.reviewers(opened, ["src/parse/errors.py"]) if c.name == "Bob Babbage")
    neighbors = opened.neighbors[opened.files("src/parse/errors.py")].toarray()[0]
    both = sorted(changed, key=lambda path: -neighbors[opened.files(path)[0]])
    assert f"works on {both[0]}, {both[1]}, which are" in bob.why


def test_of_a_new_file_the_folder_is_taken(opened) -> None:
    assert [c.name for c in answers.reviewers(opened, ["docs/new/page.md"], k=1)] == ["Eve Moore"]


def test_experts_are_who_worked_there_lately(opened) -> None:
    found = answers.experts(opened, "src/parse")
    assert [c.name for c in found] == ["Bob Babbage", "Ada Lovelace", "Nia New"]
    assert [c.why for c in found] == [
        "worked on 3 of 3 files, last 3 days before the newest commit",
        "worked on 3 of 3 files, last 2 days before the newest commit",
        "worked on 1 of 3 files, last with the newest commit",
    ]
    found = answers.experts(opened, "src/parse/lexer.py")
    assert [(c.name, c.why) for c in found[1:]] == [
        ("Bob Babbage", "worked on it, last 4 days before the newest commit"),
        ("Ada Lovelace", "worked on it, last 5 days before the newest commit"),
    ]
    (eve,) = answers.experts(opened, "src/main.py")
    assert eve.score == pytest.approx(0.5 + 0.5 * 0.5 ** (704 / 180), abs=1e-4), "half of it stays"
    assert eve.why == "worked on it, last 2 years before the newest commit"
    assert len(answers.experts(opened)) == 4
    assert answers.experts(opened, "docs/")[0].score == pytest.approx(1 + 0.5 ** (1 / answers.HALF_LIFE_DAYS))


@pytest.mark.parametrize("years", [0, 1, 3, 30])
def test_who_knows_all_files_is_never_below_who_knows_few(tmp_path, years) -> None:
    history = History(tmp_path / "old")
    start = START
    history.commit({f"src/f{i}.py": "a" for i in range(6)}, who=BOB, time=start)
    history.commit({"src/f0.py": "n"}, who=NEW, time=start + DAY + years * 365 * DAY)
    found = answers.experts(Project.open(history.write(), cache=tmp_path / "cache"), "src")
    assert [c.name for c in found] == ["Bob Babbage", "Nia New"]
    assert "6 of 6 files" in found[0].why
    assert found[0].score > 2 * found[1].score


def test_in_a_folder_of_a_clone_the_clone_is_opened(clone, tmp_path, graphrec, refused, monkeypatch) -> None:
    folder = tmp_path / "checkout"
    subprocess.run(["git", "clone", "-q", str(clone), str(folder)], check=True)
    cache = tmp_path / "cache"
    top = Project.open(folder, cache=cache)
    inside = Project.open(folder / "src" / "parse", cache=cache)
    assert (inside.path, inside.from_cache) == (top.path, True)
    assert answers.experts(inside, "docs") == answers.experts(top, "docs")
    monkeypatch.chdir(folder / "src")
    assert "Eve Moore" in graphrec("code", "experts", "docs", "--cache", cache).out
    (folder / "src" / "main.py").write_text("changed")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    changed = graphrec("code", "suggest", "--cache", cache)
    assert "src/main.py" in changed.err
    assert "docs/index.md" in changed.out
    for name, expected in (("empty", "no commits yet"), ("plain", "not a git repository")):
        (tmp_path / name).mkdir()
        if name == "empty":
            subprocess.run(["git", "init", "-q", str(tmp_path / name)], check=True)
        monkeypatch.chdir(tmp_path / name)
        assert f"{tmp_path / name}: {expected}" in refused("code", "experts", "--cache", cache)


@pytest.mark.parametrize("position", ["first", "middle", "last"])
def test_a_clock_in_the_future_does_not_push_others_to_zero(tmp_path, position) -> None:
    """The others keep their order and about half their weight."""
    future = {"first": 0, "middle": 2, "last": 4}[position]
    found = {}
    for name, wrong in (("right", START + DAY), ("wrong", 2**32)):
        history = History(tmp_path / name)
        for i in range(5):
            if i == future:
                history.commit({"src/b.py": "e", "src/c.py": "e"}, who=EVE, time=wrong)
            history.commit({"src/a.py": f"{i}", f"src/{i}.py": "a"}, who=ADA, time=START + i * 200 * DAY)
            if i < 2:
                history.commit({"src/a.py": f"b{i}"}, who=BOB, time=START + (i * 200 + 9) * DAY)
        opened = Project.open(history.write(), cache=tmp_path / "cache")
        found[name] = {c.name: c for c in answers.reviewers(opened, ["src/a.py"])}
    for person in ("Ada Lovelace", "Bob Babbage"):
        assert found["wrong"][person].score > 0.4 * found["right"][person].score
    assert list(found["wrong"])[:2] == ["Ada Lovelace", "Bob Babbage"]
    assert "last 6 months before" in found["wrong"]["Ada Lovelace"].why
    eve = next(c for c in answers.experts(opened, "src/b.py"))
    assert (eve.name, eve.score) == ("Eve Moore", 1.0)
    assert eve.why.startswith("worked on it, last with the newest commit")


def test_times_that_lead_by_little_are_taken_as_they_are(tmp_path) -> None:
    for lead, expected in ((179, 179), (181, 180), (50_000, 180)):
        history = History(tmp_path / str(lead))
        for i in range(3):
            history.commit({f"{i}.py": "a"}, time=START + i)
        history.commit({"b.py": "b"}, who=BOB, time=START + 2 + lead * DAY)
        opened = Project.open(history.write(), cache=tmp_path / "cache")
        assert opened.newest_time == START + 2 + expected * DAY
    history = History(tmp_path / "one")
    history.commit({"a.py": "a"})
    assert Project.open(history.write(), cache=tmp_path / "cache").newest_time == START + DAY


@pytest.mark.parametrize("bare", [True, False])
def test_mailmap_applies_to_the_person_who_asks(tmp_path, graphrec, refused, bare) -> None:
    """To addresses with and without commits, and to names and addresses that only commits have."""
    history = History(tmp_path / "origin")
    lines = (
        "Ada Lovelace <ada@engine.test> <old@home.test>",
        "Ada Lovelace <ada@engine.test> <unused@home.test>",
        "Eve Moore <eve@engine.test> Em <shared@home.test>",
    )
    history.commit({".mailmap": "\n".join(lines)})
    history.commit({"a.py": "1"}, who=("Countess", "old@home.test"))
    history.commit({"b.py": "1"}, who=("Em", "shared@home.test"))
    history.commit({"b.py": "2", "c.py": "2"}, who=BOB)
    folder = history.write()
    if not bare:
        subprocess.run(["git", "clone", "-q", str(folder), str(tmp_path / "clone")], check=True)
        folder = tmp_path / "clone"
    cache = tmp_path / "cache"
    opened = Project.open(folder, cache=cache)
    ada, eve, bob = (opened.find_user(person[1]) for person in (ADA, EVE, BOB))
    assert len({ada, eve, bob}) == 3
    for who in ("old@home.test", "OLD@home.test ", "unused@home.test", "Countess", "countess", "Ada Lovelace",
                "X <unused@home.test>", "Ada Lovelace <ada@engine.test>"):  # fmt: skip
        assert opened.find_user(who) == ada, who
    for who in ("Em <shared@home.test>", "shared@home.test", "Em", "eve@engine.test"):
        assert opened.find_user(who) == eve, who
    assert opened.find_user("bob@engine.test") == bob
    for who in ("nobody@home.test", "Em <other@home.test>", "--help", "-<x@y>", "a\0@b", "", "<>", "@"):
        with pytest.raises(DataError, match="no contribution by"):
            opened.find_user(who)
    answer = graphrec("code", "suggest", "--user", "unused@home.test", "--repo", folder, "--cache", cache)
    assert "b.py" in answer.out
    assert "a.py" not in answer.out.split()
    left = answers.reviewers(opened, ["a.py"], exclude=["unused@home.test"])
    assert "Ada Lovelace" not in [c.name for c in left]
    assert "nobody@home.test" in refused(
        "code", "suggest", "--user", "nobody@home.test", "--repo", folder, "--cache", cache
    )


def test_a_change_stands_for_a_person_without_contributions(opened) -> None:
    found = answers.suggest_for_change(opened, ["src/parse/errors.py"], 9)
    assert {f.file for f in found[:2]} == {"src/parse/lexer.py", "src/parse/tree.py"}
    assert all(f.file != "src/parse/errors.py" for f in found)
    neighbors = opened.neighbors.toarray()
    changed = int(opened.files("src/parse/errors.py")[0])
    for suggestion in found:
        item = int(opened.files(suggestion.file)[0])
        assert suggestion.score == pytest.approx(neighbors[item, changed])
    assert "worked on together with src/parse/errors.py" in found[0].why
    assert "1 of the changed files is in src/parse" in found[0].why
    new = answers.suggest_for_change(opened, ["docs/new.md", "nowhere.py"], 9, under="docs")
    assert {f.file for f in new} == {"docs/index.md", "docs/use.md"}, "a new file stands for its folder"
    assert answers.suggest_for_change(opened, ["nowhere.py"]) == []


def test_who_and_what_is_not_there_is_said_with_the_nearest(opened) -> None:
    with pytest.raises(DataError, match=r"no contribution by 'bob babage'.* Did you mean 'Bob Babbage'"):
        answers.suggest(opened, "bob babage")
    with pytest.raises(DataError, match=r"Did you mean 'src/parse/lexer\.py'"):
        opened.files("src/parse/lexr.py")
    with pytest.raises(DataError, match="no file or folder"):
        answers.reviewers(opened, ["nowhere"])
    for call in (
        lambda: answers.suggest(opened, "Eve Moore", 0),
        lambda: answers.experts(opened, "", 0),
        lambda: answers.reviewers(opened, []),
    ):
        with pytest.raises(ConfigError, match="expected at least"):
            call()


def test_nobody_is_stored(opened, tmp_path) -> None:
    """No name or address is in any file of the cache."""
    for person in (ADA, BOB, EVE, NEW):
        assert opened.user_names
        for word in (person[0], person[1], person[0].split()[1]):
            (folder,) = {p.parent for p in opened_files(opened)}
            hit = subprocess.run(["grep", "-rli", word, str(folder.parent)], capture_output=True, check=False)
            assert hit.returncode == 1, hit.stdout


def opened_files(opened: Project) -> list:
    from graphrec.core.files import digest

    known = digest(str(opened.path.absolute()))[:16]
    return [p for p in opened.path.parent.parent.rglob(MANIFEST) if known in str(p)]


def test_a_history_is_read_once_until_something_is_committed(tmp_path) -> None:
    history = History(tmp_path / "small")
    for i in range(3):
        history.commit({f"f{i}.py": "x", "all.py": str(i)}, who=(ADA, BOB)[i % 2])
    history.commit({"all.py": "alone"})
    clone, cache = history.write(), tmp_path / "cache"
    first = Project.open(clone, cache=cache)
    again = Project.open(clone, cache=cache)
    assert (first.from_cache, again.from_cache) == (False, True)
    assert answers.suggest(first, ADA[1]) == answers.suggest(again, ADA[1])
    done = next(cache.rglob(MANIFEST))
    done.write_text(done.read_text().replace(first.revision, "0" * 40))
    assert [Project.open(clone, cache=cache).from_cache for _ in range(2)] == [False, True]
    for file in ("dataset/dataset.json", "recommender/recommender.json", MANIFEST):
        (broken,) = cache.rglob(f"*/{file}") if "/" in file else cache.rglob(file)
        broken.write_text("{")
        made = Project.open(clone, cache=cache)
        assert not made.from_cache, "what is damaged is made anew"
        assert answers.suggest(made, ADA[1]) == answers.suggest(first, ADA[1])
        assert Project.open(clone, cache=cache).from_cache
    assert {path.name for path in cache.rglob(".*")} <= {".lock"}, "nothing half-made is left"
    other = Project.open(clone, cache=cache, config=MiningConfig(max_files=1))
    assert not other.from_cache
    assert len(other.data.train) < len(first.data.train)


def test_a_salt_makes_another_history_and_names_are_the_newest(tmp_path, monkeypatch) -> None:
    history = History(tmp_path / "small")
    history.commit({"a.py": "x"}, who=("Ada Byron", ADA[1]))
    history.commit({"a.py": "y", "b.py": "y"}, who=ADA)
    history.commit({"b.py": "z"}, who=BOB)
    clone, cache = history.write(), tmp_path / "cache"
    first = Project.open(clone, cache=cache)
    monkeypatch.setenv("GRAPHREC_SALT", "sea")
    other = Project.open(clone, cache=cache)
    assert not other.from_cache
    assert set(first.data.users.ids).isdisjoint(other.data.users.ids)
    assert sorted(other.user_names.values()) == ["Ada Lovelace", "Bob Babbage"]
    assert other.find_user("Ada Lovelace") == other.find_user(ADA[1])


def test_old_histories_go(tmp_path, monkeypatch) -> None:
    history = History(tmp_path / "small")
    history.commit({"a.py": "x", "b.py": "y"})
    history.commit({"a.py": "z"}, who=BOB)
    clone, cache = history.write(), tmp_path / "cache"
    for n in range(1, 6):
        Project.open(clone, cache=cache, config=MiningConfig(max_files=n + 5))
        again = Project.open(clone, cache=cache, config=MiningConfig(max_files=6))
        assert again.from_cache, "what is asked for again and again stays"
    assert len(list(cache.rglob(MANIFEST))) == project.MAX_CACHED
    assert Project.open(clone, cache=cache, config=MiningConfig(max_files=6)).from_cache
    assert Project.open(clone, cache=cache, config=MiningConfig(max_files=10)).from_cache
    assert not Project.open(clone, cache=cache, config=MiningConfig(max_files=7)).from_cache


def test_a_visitor_is_answered_from_the_change_under_way(
    clone, tmp_path, graphrec, refused, monkeypatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    checkout = tmp_path / "checkout"
    subprocess.run(["git", "clone", "-q", clone, checkout], check=True)
    where = ("--repo", checkout, "--cache", tmp_path / "cache")
    subprocess.run(["git", "-C", checkout, "config", "user.email", "guest@far.test"], check=True)
    for_guest = refused("code", "suggest", *where)
    assert "guest@far.test" in for_guest
    assert "--user" in for_guest
    assert "'Bob Babbage'" in for_guest
    (checkout / "src/parse/errors.py").write_text("changed")
    answer = graphrec("code", "suggest", "--json", *where)
    assert {f["file"] for f in json.loads(answer.out)[:2]} == {"src/parse/lexer.py", "src/parse/tree.py"}
    assert "guest@far.test" in answer.err
    assert "src/parse/errors.py" in answer.err
    assert "'guest@far.test'" in refused("code", "suggest", "--user", "guest@far.test", *where)
    subprocess.run(["git", "-C", checkout, "config", "user.email", ADA[1]], check=True)
    own = graphrec("code", "suggest", "--json", *where)
    assert {f["file"] for f in json.loads(own.out)} == {"src/main.py", "docs/index.md", "docs/use.md"}


def small_clone(folder):
    history = History(folder / "small")
    for i in range(6):
        history.commit({f"f{i % 3}.py": str(i), "all.py": str(i)}, who=(ADA, BOB)[i % 2])
    return history.write()


OPEN = "import sys; from graphrec.code.project import Project; "
OPEN += "print(Project.open(sys.argv[1], cache=sys.argv[2]).from_cache)"


def open_in_process(clone, cache, code=OPEN):
    return subprocess.Popen(
        [sys.executable, "-c", code, str(clone), str(cache)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_processes_that_open_a_cold_cache_at_once_share_one_entry(tmp_path) -> None:
    clone = small_clone(tmp_path)
    # All wait until three are ready, so that none is finished before the others begin.
    code = OPEN.replace("print(", "open(f'{sys.argv[1]}-{__import__(\"os\").getpid()}', 'w').close(); "
                        "import glob, time\nwhile len(glob.glob(sys.argv[1] + '-*')) < 3: time.sleep(0.01)\n"
                        "print(")  # fmt: skip
    processes = [open_in_process(clone, tmp_path / "cache", code) for _ in range(3)]
    results = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], results
    assert sorted(out.strip() for out, _ in results) == ["False", "True", "True"]
    assert {path.name for path in (tmp_path / "cache").glob("*/.*")} == {".lock"}


def test_what_killed_processes_leave_is_removed(tmp_path, monkeypatch) -> None:
    clone = small_clone(tmp_path)
    cache = tmp_path / "cache"
    # It dies when the entry is complete and not yet under its name.
    dies = "import os, signal; os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL); "
    process = open_in_process(clone, cache, dies + OPEN)
    said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    assert list(cache.glob("*/.*/run")), "the kill left a folder"
    assert not Project.open(clone, cache=cache).from_cache
    assert {path.name for path in cache.glob("*/.*")} == {".lock"}


def test_a_kill_at_any_file_operation_leaves_a_cache_that_opens_and_is_cleaned(tmp_path, monkeypatch) -> None:
    """Killed while an entry is replaced and an old one removed; expected: the next process opens it, and
    nothing but complete entries stays."""
    clone = small_clone(tmp_path)
    expected = Project.open(clone, cache=tmp_path / "first").data
    monkeypatch.setattr(project, "MAX_CACHED", 1)
    # The history is mined and trained once: only the cache's own operations are of interest here.
    built = next((tmp_path / "first").rglob(MANIFEST)).parent

    def copied(cls_or_name, data, tables, *, out, **options):
        shutil.copytree(built, out)

    monkeypatch.setattr("graphrec.runs.train", copied)
    monkeypatch.setattr(project, "read_histories", lambda *_, **__: None)
    for step in range(200):
        cache = tmp_path / str(step)
        older = next(iter((tmp_path / "first").iterdir()))
        shutil.copytree(older, cache / older.name)
        (entry,) = cache.glob("*/*/")
        (entry / MANIFEST).write_text("{}")  # is replaced
        shutil.copytree(entry, entry.with_name("0" * 16))  # is removed
        finished = killed_after(step, monkeypatch, Project.open, clone, cache=cache)
        assert Project.open(clone, cache=cache).data == expected
        assert {path.name for path in cache.glob("*/*")} <= {".lock", entry.name, "0" * 16}
        Project.open(clone, cache=cache)
        assert all((path / MANIFEST).is_file() for path in cache.glob("*/[0-9a-f]*"))
        if finished:
            break
    assert step > 20
    assert finished


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch) -> None:
    clone = small_clone(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file"):
        Project.open(clone, cache=tmp_path / "file" / "cache")


def test_a_model_that_reads_files_can_rank_them(clone, tmp_path) -> None:
    from graphrec.features import FeatureStore
    from graphrec.features.extract import extractor
    from graphrec.features.extract.extraction import extract

    def features(data, folder):
        made = extractor("code-segments", min_texts=1, size=8)
        return {"code": extract(data, "code", made, FeatureStore(folder))}

    options = {"epochs": 2, "progress": False}
    opened = Project.open(clone, model="coder", cache=tmp_path, features=features, train_options=options)
    assert opened.recommender.meta["model"] == "coder"
    assert len(answers.suggest(opened, "nia@engine.test", 3)) == 3


def test_the_commands(clone, tmp_path, graphrec, refused, monkeypatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    where = ("--repo", clone, "--cache", tmp_path / "cache")
    answer = graphrec("code", "suggest", "--user", "nia@engine.test", "-k", "2", *where)
    assert answer.code == 0
    assert "src/parse/tree.py" in answer.out
    assert "4 people, 6 files, 10 contributions" in answer.err
    assert "(from the cache)" not in answer.err
    answer = graphrec("code", "reviewers", "src/parse/errors.py", "--not", "Ada Lovelace", "--json", *where)
    assert "(from the cache)" in answer.err
    assert [c["name"] for c in json.loads(answer.out)] == ["Bob Babbage", "Nia New"]
    assert "Eve Moore" in graphrec("code", "experts", "docs", *where).out
    alone = graphrec("code", "suggest", "--user", "Eve Moore", "--under", "docs", *where)
    assert alone.out == "Eve Moore has worked on every file there\n"
    assert "Did you mean" in refused("code", "experts", "dcos", *where)
    for_nobody = refused("code", "suggest", *where)
    assert "user.email" in for_nobody
    assert "--user" in for_nobody
    assert "'Eve Moore'" in for_nobody
    assert "nobody" in refused("code", "reviewers", "docs/use.md", "--not", "nobody", *where)
    assert "no such folder" in refused("code", "experts", "--repo", tmp_path / "on")
    assert "Did you mean 'coder'" in refused("code", "suggest", "--user", "x", "--model", "codr", *where)
    empty = History(tmp_path / "empty").write()
    assert "no commit" in refused("code", "experts", "--repo", empty)
