"""What tests of the page of conversations share: a server in a thread, where a page stands."""

from __future__ import annotations

import shutil
import socket
import threading
import time

import uvicorn

from graphrec.conversation.agent import ConversationalRecommender
from graphrec.conversation.web.app import create_app

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE = 120  # seconds; a machine that does much else may stall for several


class Served:
    """A server in a thread."""

    def __init__(self, agent: ConversationalRecommender, port: int = 0) -> None:
        self.agent, self.socket = agent, socket.create_server(("127.0.0.1", port))
        self.port = self.socket.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}/"
        self.server = uvicorn.Server(uvicorn.Config(create_app(agent), log_level="warning", lifespan="off"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
            time.sleep(0.01)

    def stop(self) -> None:
        self.server.should_exit = self.server.force_exit = True
        self.thread.join(PATIENCE)
        self.socket.close()


def state(page) -> dict:
    """The conversation that the page holds."""
    return page.evaluate("history.state.reply.state")


def until(page, holds: str, *arguments: object) -> None:
    """Waits until something holds on a page; asked again and again from here, as the page's policy lets no
    tool wait inside it.
    """
    end = time.monotonic() + PATIENCE
    while not page.evaluate(holds, *arguments):
        assert time.monotonic() < end, f"{holds}: not after {PATIENCE} s; {page.evaluate('history.state')}"
        time.sleep(0.005)


def at(page, events: int) -> None:
    """Waits until so many answers were given, and nothing is on its way."""
    until(page, "n => history.state.reply?.state.events.length === n && !busy", events)


def begin(page) -> None:
    page.get_by_role("button", name="Start", exact=True).click()
    at(page, 0)


def look(page) -> tuple[str, str, str]:
    """What of a turn is on display."""
    return tuple(page.locator(part).inner_text() for part in ("#count", "#heading", "#why"))
