"""The server of a language model and its secrets, which are sent to it and printed or stored nowhere."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlsplit

from pydantic import SecretStr

from graphrec.core.errors import ConfigError, missing_dependency

KEY_VARIABLE = "OPENAI_API_KEY"
URL_VARIABLE = "OPENAI_BASE_URL"
DEFAULT_URL = "https://api.openai.com/v1"
REDACTED = "***"
MIN_REDACTED = 6  # shorter secrets may be words of any reply; they are redacted in header form only
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Endpoint:
    """URL of a server and the secrets sent to it; ``str()`` and ``repr()`` show no secret.

    User name, password and query of the URL and the API key are kept apart from the URL. They are added to a
    request just before it is sent, and whatever of them the server repeats in its response is replaced by
    :data:`REDACTED`. Pickling keeps those of the URL; the API key is read from the environment again.

    Args:
        base_url: URL of the server; default: ``OPENAI_BASE_URL`` or the URL of OpenAI.
        key_variable: environment variable that holds the API key.

    Attributes:
        url: the URL without user name, password and query, ending in ``/``.
        key_variable: environment variable that holds the API key.
        key_hint: what messages call this variable.

    Raises:
        ConfigError: not a URL of http or https, or not the name of a variable; the message does not repeat
            it, since it may hold a secret.
    """

    def __init__(self, base_url: str | None = None, key_variable: str = KEY_VARIABLE) -> None:
        if not VARIABLE.fullmatch(key_variable):
            raise ConfigError(
                "key_variable is not the name of an environment variable; expected a name such as "
                f"{KEY_VARIABLE}, not the key itself"
            )
        given = base_url or os.environ.get(URL_VARIABLE) or DEFAULT_URL
        try:
            parts = urlsplit(given)
            port = parts.port
        except ValueError:
            parts = urlsplit("")
            port = None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                "the base URL is not valid (not repeated here: it may hold a password); expected "
                "http://HOST:PORT/PATH or https, such as http://localhost:11434/v1, with special characters "
                "of a password in percent-encoding"
            )
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        origin = f"{parts.scheme}://{host}" + (f":{port}" if port is not None else "")
        self.key_variable = key_variable
        # A name that is not in capitals may be the key itself, given by mistake.
        self.key_hint = key_variable if key_variable.isupper() else "the variable that key_variable names"
        self.url = f"{origin}{parts.path.rstrip('/')}/"
        self._given = SecretStr(given)
        user = unquote(parts.username or "")
        password = unquote(parts.password or "")
        key = os.environ.get(key_variable) or ""
        pair = base64.b64encode(f"{user}:{password}".encode()).decode()
        authorization = f"Basic {pair}" if user or password else f"Bearer {key}" if key else ""
        self._authorization = SecretStr(authorization)
        self._query = SecretStr(parts.query)
        values = [value for _, value in parse_qsl(parts.query)]
        # A user name without a password is a token.
        secrets = {pair if authorization else "", key, password or user, *values}
        long = {secret for secret in secrets if len(secret) >= MIN_REDACTED}
        forms = {form for secret in long for form in (secret, quote(secret, safe=""), quote_plus(secret))}
        forms |= {form for form in (authorization, parts.query) if len(form) >= MIN_REDACTED}
        self._forms = tuple(SecretStr(form) for form in sorted(forms, key=len, reverse=True))

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self._given, self.key_variable)

    def redact(self, text: str) -> str:
        """The text with every secret in it replaced."""
        for form in self._forms:
            text = text.replace(form.get_secret_value(), REDACTED)
        return text

    def redact_body(self, body: bytes) -> bytes:
        """The body of a response with every secret in it replaced, also where JSON escapes its characters."""
        text = body.decode("utf-8", "surrogateescape")
        if "\\" in text:
            with suppress(ValueError, RecursionError):
                text = json.dumps(_map_strings(json.loads(text), self.redact))
        return self.redact(text).encode("utf-8", "surrogateescape")

    @contextmanager
    def authorized(self, request: Any) -> Iterator[None]:
        """Adds the secrets to a request of httpx for the block, and takes them out again."""
        before = request.headers.get("authorization")
        if self._authorization.get_secret_value():
            request.headers["authorization"] = self._authorization.get_secret_value()
        query = self._query.get_secret_value()
        if query:
            # Not in the URL, which httpx logs.
            target = request.url.raw_path.decode("ascii")
            joined = f"{target}{'&' if '?' in target else '?'}{quote(query, safe='=&%+:/?@,;!*()~')}"
            request.extensions["target"] = joined.encode("ascii")
        try:
            yield
        finally:
            request.extensions.pop("target", None)
            request.headers.pop("authorization", None)
            if before is not None:
                request.headers["authorization"] = before

    def client(self, timeout: float, retries: int, count: Callable[[Any], None]) -> Any:
        """A client of the ``openai`` package; ``count`` is called with every response.

        Redirects are not followed: the prompts and the key are for this server only.

        Args:
            timeout: seconds for one request.
            retries: how often a failed request is repeated.
            count: called with each response.

        Raises:
            MissingDependencyError: the extra ``llm`` is not installed.
        """
        try:
            import openai
        except ImportError as cause:
            raise missing_dependency("openai", "llm") from cause
        endpoint = self

        class Client(openai.DefaultHttpxClient):  # type: ignore[misc, unused-ignore]
            """Sends requests with the secrets and returns responses without."""

            def send(self, request: Any, *, stream: bool = False, **_: Any) -> Any:
                with endpoint.authorized(request):
                    response = super().send(request, stream=False, follow_redirects=False)
                headers = {
                    name: endpoint.redact(value)
                    for name, value in response.headers.items()
                    if name not in ("content-encoding", "content-length", "transfer-encoding")
                }
                clean = type(response)(
                    response.status_code, headers=headers, content=endpoint.redact_body(response.content),
                    request=request, extensions=response.extensions,
                )  # fmt: skip
                count(clean)
                return clean

        return openai.OpenAI(
            base_url=self.url, api_key="none", timeout=timeout, max_retries=retries,
            http_client=Client(timeout=timeout, follow_redirects=False),
        )  # fmt: skip


def location(response: Any) -> str:
    """Where a redirect points: its origin and path, without user name, password and query."""
    try:
        return Endpoint(str(response.request.url.join(response.headers["location"]))).url
    except (ConfigError, KeyError, ValueError):
        return "an address that is not valid"


def _restored(base_url: SecretStr, key_variable: str) -> Endpoint:
    return Endpoint(base_url.get_secret_value(), key_variable)


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """A JSON value with every text in it, keys included, changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map_strings(part, change) for part in value]
    if isinstance(value, dict):
        return {change(name): _map_strings(part, change) for name, part in value.items()}
    return value
