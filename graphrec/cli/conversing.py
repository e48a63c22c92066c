"""``graphrec converse``: a conversation on the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from graphrec.cli import output, settings
from graphrec.cli.help import command
from graphrec.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from graphrec.conversation.session import Session, Turn

PROMPT = "> "
BACK = ("b", "back")
QUIT = ("q", "quit")
NONE = ("n", "no", "none")
ANSWERS = {"y": "yes", "yes": "yes", "n": "no", "no": "no", "?": "unknown", "unknown": "unknown"}


@command(
    "graphrec converse runs/lastfm-scpr",
    "graphrec converse runs/lastfm-scpr --user 12 --like rock --save talk.json",
    "graphrec converse runs/lastfm-scpr --replay talk.json",
    "graphrec converse runs/lastfm-scpr --web",
    "graphrec converse runs/lastfm-scpr --policy recommend-when-sure:30 --belief posterior --error 0.05",
)
def converse(
    run: settings.Run,
    user: Annotated[str | None, typer.Option(help="Your user id. Default: an unknown user.")] = None,
    like: Annotated[
        list[str] | None, typer.Option(help="An attribute that you like; may be given several times.")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="A rule, such as ask-then-recommend:6, instead of the run's policy.")
    ] = None,
    belief: Annotated[str | None, typer.Option(help="candidates or posterior, instead of the run's.")] = None,
    error: Annotated[
        float | None, typer.Option(help="Assumed share of wrong answers; posterior only.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the conversation to a JSON file.")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Continue a saved conversation.")
    ] = None,
    web: Annotated[bool, typer.Option("--web", help="Serve a web page (extra serve).")] = False,
    host: Annotated[str, typer.Option(help="Address of the page.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the page.")] = 8000,
) -> None:
    """Answer questions and get recommendations with explanations.

    RUN is a run of a conversational model, or a directory that ConversationalRecommender.save wrote; the
    dataset is not needed. Answers are read from standard input, one per line.
    """
    from graphrec.conversation.agent import ConversationalRecommender
    from graphrec.conversation.from_run import open_agent
    from graphrec.conversation.session import Session
    from graphrec.core.files import write_json

    settings.suffix(save, [".json"], "--save")
    if web and (user is not None or like or replay is not None or save is not None):
        raise ConfigError(
            "--web asks for user and likes on the page; leave out --user, --like, --save and --replay"
        )
    if replay is not None and (user is not None or like):
        raise ConfigError("--replay continues with the saved user and likes; leave out --user and --like")
    agent: ConversationalRecommender = open_agent(run)
    if belief is not None:
        settings.choice(belief, ["candidates", "posterior"], "--belief")
    if error is not None and (belief or agent.setting.config.belief) != "posterior":
        raise ConfigError("--error is an option of posterior; leave it out, or give --belief posterior")
    if policy is not None or belief is not None or error is not None:
        kind = cast(Literal["candidates", "posterior"] | None, belief)
        agent = agent.replace(policy, kind, error)
    if web:
        from graphrec.conversation.web.app import serve

        serve(agent, host, port)
        return
    session = (
        Session.start(agent, user, like or ())
        if replay is None
        else Session.resume(agent, _read_state(replay))
    )
    for event in session.events:
        output.print_line(_describe(event))
    try:
        _converse(session)
    finally:
        if save is not None:
            write_json(save, session.state())
    if save is not None:
        output.print_note(f"{save}: the conversation; continue it with --replay {save}")


def _converse(session: Session) -> None:
    """Leads the conversation until an item is chosen, nothing is left, or the input ends."""
    while session.chosen_item is None:
        turn = session.next()
        _print_turn(turn)
        if turn.kind == "end":
            return
        while True:
            line = _read_line()
            if line is None or line.lower() in QUIT:
                return
            if line.lower() in BACK:
                if not session.undo():
                    output.print_note("there is no answer to undo yet")
                    continue
                break
            try:
                session.answer(_parse_answer(turn, line))
            except ConfigError as cause:
                output.print_note(str(cause))
                continue
            break
    output.print_line(
        f"found: {output.printable(session.agent.titles.get(session.chosen_item, session.chosen_item))}"
    )


def _print_turn(turn: Turn) -> None:
    if turn.kind == "end":
        output.print_line(f"{turn.number}. nothing is left to recommend")
        return
    if turn.unmet:
        output.print_line(f"   (no item fits all your answers; these contradict {turn.unmet} of them)")
    if turn.kind == "question":
        topic = f"{turn.topic}: " if turn.topic else ""
        output.print_line(
            f"{turn.number}. {turn.remaining:,} left. {output.printable(topic + turn.sentence)}"
        )
        output.print_line(f"   ({output.printable(turn.why)})")
        if turn.values:
            for number, value in enumerate(turn.values, 1):
                output.print_line(f"   {number}. {output.printable(value)}")
            output.print_line("   numbers that fit, n for none, ? do not know, b undo, q quit")
        else:
            output.print_line("   y yes, n no, ? do not know, b undo, q quit")
        return
    output.print_line(f"{turn.number}. {turn.remaining:,} left. How about one of these?")
    if turn.why:
        output.print_line(f"   ({output.printable(turn.why)})")
    for number, item in enumerate(turn.items, 1):
        why = f" ({output.printable(item.why)})" if item.why != turn.shared else ""
        output.print_line(f"   {number}. {output.printable(item.title)}{why}")
    output.print_line("   the number of one, n for none of these, b undo, q quit")


def _parse_answer(turn: Turn, line: str) -> str | list[str] | None:
    """The answer in a line of input; a ConfigError if it is none."""
    word = line.lower()
    if turn.kind == "recommendation":
        if word in NONE:
            return None
        return turn.items[_parse_numbers(line, len(turn.items), 1)[0]].id
    if ANSWERS.get(word) == "unknown":
        return "unknown"
    if not turn.values:
        if word not in ANSWERS:
            raise ConfigError(f"{line!r} is not an answer; expected y, n or ?")
        return ANSWERS[word]
    if word in NONE:
        return []
    return [turn.values[i] for i in _parse_numbers(line, len(turn.values), None)]


def _parse_numbers(line: str, last: int, count: int | None) -> list[int]:
    parts = [part for part in line.replace(",", " ").split() if part]
    valid = all(part.isdecimal() and len(part) < 7 and 1 <= int(part) <= last for part in parts)
    if not valid or not parts or (count is not None and len(parts) != count):
        expected = "a number" if count == 1 else "numbers"
        raise ConfigError(f"{line!r} is not an answer; expected {expected} from 1 to {last}, or n")
    return [int(part) - 1 for part in parts]


def _read_line() -> str | None:
    """Reads an answer, with a prompt on a terminal and an echo elsewhere; None at the end of the input."""
    if sys.stdin.isatty():
        try:
            return input(PROMPT).strip()
        except EOFError:
            return None
    line = sys.stdin.readline()
    if not line:
        return None
    output.print_line(f"{PROMPT}{output.printable(line.strip())}")
    return line.strip()


def _describe(event: dict[str, Any]) -> str:
    """A line about an earlier event."""
    if "asked" in event:
        answer = event["answer"]
        text = answer if isinstance(answer, str) else ", ".join(answer) or "none"
        return output.printable(f"- {event['asked']}? {text}")
    return f"- {len(event['shown'])} items shown, " + ("none of them" if event["chosen"] is None else "one")


def _read_state(path: Path) -> dict[str, Any]:
    from graphrec.core.files import read_json

    state = read_json(path, DataError)
    if not isinstance(state, dict):
        raise DataError(f"{path}: holds {type(state).__name__}; expected a conversation that --save wrote")
    return state
