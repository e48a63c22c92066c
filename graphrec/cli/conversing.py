"""``graphrec converse``: a conversation on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from graphrec.cli import output, settings
from graphrec.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from graphrec.conversation.session import Session, Turn

EXAMPLES = (
    "graphrec converse runs/lastfm-scpr",
    "graphrec converse runs/lastfm-scpr --user 12 --like rock --save talk.json",
    "graphrec converse runs/lastfm-scpr --replay talk.json",
    "graphrec converse runs/lastfm-scpr --web",
    "graphrec converse runs/lastfm-scpr --policy recommend-when-sure:30 --belief posterior --error 0.05",
)
BACK, QUIT = ("b", "back"), ("q", "quit")
NONE = ("n", "no", "none")
ANSWERS = {"y": "yes", "yes": "yes", "n": "no", "no": "no", "?": "unknown", "unknown": "unknown"}


def converse(
    run: settings.Run,
    user: Annotated[str | None, typer.Option(help="Who you are. Default: somebody unknown.")] = None,
    like: Annotated[
        list[str] | None, typer.Option(help="An attribute to begin with; may be given several times.")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="A rule, such as ask-then-recommend:6, instead of the run's policy.")
    ] = None,
    belief: Annotated[str | None, typer.Option(help="candidates or posterior, instead of the run's.")] = None,
    error: Annotated[
        float | None, typer.Option(help="Share of wrong answers to reckon with; posterior only.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the conversation to a JSON file.")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Begin with a conversation that was saved.")
    ] = None,
    web: Annotated[bool, typer.Option("--web", help="As a web page (extra serve).")] = False,
    host: Annotated[str, typer.Option(help="Where the page is served.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the page.")] = 8000,
) -> None:
    """Have a conversation: answer questions, get recommendations, and see why.

    RUN is a run of a conversational model, or a directory that ConversationalRecommender.save wrote; the
    dataset is not needed. Answers are read from standard input, a line each.
    """
    from graphrec.conversation.agent import ConversationalRecommender
    from graphrec.conversation.from_run import open_agent

    if web and (user is not None or like or replay is not None or save is not None):
        raise ConfigError("--web asks who you are and what you like on the page; leave out the rest")
    if replay is not None and (user is not None or like):
        raise ConfigError("--replay goes on with its own user and likes; leave out --user and --like")
    agent: ConversationalRecommender = open_agent(run)
    if belief is not None:
        settings.choice(belief, ["candidates", "posterior"], "--belief")
    if error is not None and (belief or agent.setting.config.belief) != "posterior":
        raise ConfigError("--error is what posterior reckons with; leave it out, or give --belief posterior")
    if policy is not None or belief is not None or error is not None:
        kind = cast(Literal["candidates", "posterior"] | None, belief)
        agent = agent.changed(policy, kind, error)
    if web:
        from graphrec.conversation.web.app import serve

        serve(agent, host, port)
        return
    session = agent.start(user, like or ()) if replay is None else agent.resume(_saved(replay))
    for event in session.events:
        output.print_line(_event(event))
    try:
        _talk(session, _reader())
    finally:
        if save is not None:
            _save(save, session)
    if save is not None:
        output.print_note(f"{save}: the conversation; go on with --replay {save}")


def _talk(session: Session, read: Callable[[str], str | None]) -> None:
    """Until an item is chosen, nothing is left, or the input ends."""
    while session.found is None:
        turn = session.next()
        _show(turn)
        if turn.kind == "end":
            return
        while True:
            line = read("> ")
            if line is None or line.lower() in QUIT:
                return
            if line.lower() in BACK:
                if not session.undo():
                    output.print_note("nothing to take back yet")
                    continue
                break
            try:
                session.answer(_meant(turn, line))
            except ConfigError as cause:
                output.print_note(str(cause))
                continue
            break
    output.print_line(f"found: {output.printable(session.agent.titles.get(session.found, session.found))}")


def _show(turn: Turn) -> None:
    if turn.kind == "end":
        output.print_line(f"{turn.number}. nothing is left to recommend")
        return
    if turn.unmet:
        output.print_line(f"   (nothing meets all you said; these items miss {turn.unmet} of your answers)")
    if turn.kind == "question":
        output.print_line(f"{turn.number}. {turn.remaining:,} left. {output.printable(str(turn.question))}?")
        output.print_line(f"   ({output.printable(turn.why)})")
        if turn.values:
            for number, value in enumerate(turn.values, 1):
                output.print_line(f"   {number}. {output.printable(value)}")
            output.print_line("   numbers that fit, n for none, ? do not know, b take back, q quit")
        else:
            output.print_line("   y yes, n no, ? do not know, b take back, q quit")
        return
    output.print_line(f"{turn.number}. {turn.remaining:,} left. How about one of these?")
    for number, item in enumerate(turn.items, 1):
        output.print_line(f"   {number}. {output.printable(item.title)} ({output.printable(item.why)})")
    output.print_line("   the number of the one, n for none of these, b take back, q quit")


def _meant(turn: Turn, line: str) -> str | list[str] | None:
    """The answer that a line stands for.

    Raises:
        ConfigError: it stands for none.
    """
    word = line.lower()
    if turn.kind == "recommendation":
        if word in NONE:
            return None
        return turn.items[_numbers(line, len(turn.items), 1)[0]].id
    if ANSWERS.get(word) == "unknown":
        return "unknown"
    if not turn.values:
        if word not in ANSWERS:
            raise ConfigError(f"{line!r} is not an answer; expected y, n or ?")
        return ANSWERS[word]
    if word in NONE:
        return []
    return [turn.values[i] for i in _numbers(line, len(turn.values), None)]


def _numbers(line: str, last: int, how_many: int | None) -> list[int]:
    parts = [part for part in line.replace(",", " ").split() if part]
    right = all(part.isdecimal() and len(part) < 7 and 1 <= int(part) <= last for part in parts)
    if not right or not parts or (how_many is not None and len(parts) != how_many):
        wanted = "a number" if how_many == 1 else "numbers"
        raise ConfigError(f"{line!r} is not an answer; expected {wanted} from 1 to {last}, or n")
    return [int(part) - 1 for part in parts]


def _reader() -> Callable[[str], str | None]:
    """Reads lines; prompts on a terminal, and echoes what it reads where there is none."""

    def read(prompt: str) -> str | None:
        if sys.stdin.isatty():
            try:
                return input(prompt).strip()
            except EOFError:
                return None
        line = sys.stdin.readline()
        if not line:
            return None
        output.print_line(f"{prompt}{output.printable(line.strip())}")
        return line.strip()

    return read


def _event(event: dict[str, Any]) -> str:
    """A line about what was said before."""
    if "asked" in event:
        said = event["answer"] if isinstance(event["answer"], str) else ", ".join(event["answer"]) or "none"
        return output.printable(f"- {event['asked']}? {said}")
    return f"- {len(event['shown'])} items shown, " + ("none of them" if event["chosen"] is None else "one")


def _saved(path: Path) -> dict[str, Any]:
    from graphrec.core.files import read_json

    found = read_json(path, DataError)
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds no conversation; expected what --save wrote")
    return found


def _save(path: Path, session: Session) -> None:
    from graphrec.core.files import write_json

    write_json(path, session.state())
