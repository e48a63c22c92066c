"""Client of OpenAI-compatible servers (vLLM, Ollama, llama.cpp, ...), based on the ``openai`` package."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from graphrec.core.errors import ConfigError, FeatureError
from graphrec.features.extract.llm.endpoint import KEY_VARIABLE, Endpoint, location
from graphrec.features.extract.llm.response_cache import Messages, Reply

if TYPE_CHECKING:
    import openai

RESPONSE_FORMATS = ("json_schema", "json_object")
"""OpenAI's response_format, and llama.cpp's, which holds the schema."""


class Chat:
    """Chat completions of one model. The API key is read from the environment and stored nowhere else.

    Requests that time out, are rate-limited (429) or fail on the server (5xx) are repeated after the delay in
    ``Retry-After`` or an exponential, jittered delay. All other errors are final.

    Args:
        model: name of the model on the server.
        base_url: URL of the server, such as ``http://localhost:11434/v1``; default: ``OPENAI_BASE_URL`` or
            the URL of OpenAI. A user name and password in it are sent as HTTP basic authentication, a query
            with every request.
        key_variable: environment variable that holds the API key; local servers often need none.
        temperature: sampling temperature.
        top_p: nucleus sampling threshold; a small value keeps to the listed candidates (LLMRec, Sec. 4).
        max_tokens: maximum tokens of a reply.
        timeout: seconds for one request.
        retries: how often a failed request is repeated.
        structured: constrain replies with ``response_format`` as long as the server accepts it.

    Attributes:
        endpoint: the server and the secrets sent to it.
        response_formats: formats the server has not rejected, in the order in which they are tried.
        error_statuses: number of responses by HTTP status, for 400 and above.

    Raises:
        ConfigError: an option is out of range.
        MissingDependencyError: the extra ``llm`` is not installed.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        *,
        key_variable: str = KEY_VARIABLE,
        temperature: float = 0.6,
        top_p: float = 0.1,
        max_tokens: int = 1000,
        timeout: float = 60.0,
        retries: int = 6,
        structured: bool = True,
    ) -> None:
        if not (
            0 <= temperature <= 2 and 0 < top_p <= 1 and max_tokens >= 1 and timeout > 0 and retries >= 0
        ):
            raise ConfigError(
                f"temperature {temperature}, top_p {top_p}, max_tokens {max_tokens}, timeout {timeout}, "
                f"retries {retries}; expected 0 to 2, above 0 to 1, at least 1, above 0, at least 0"
            )
        self.model = model
        self.response_formats = tuple(RESPONSE_FORMATS if structured else ())
        self.parameters = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
        self.error_statuses: Counter[int] = Counter()
        self._lock = threading.Lock()
        self.endpoint = Endpoint(base_url, key_variable)
        self._client = self.endpoint.client(timeout, retries, self._count)

    def ask(self, messages: Messages, schema: Mapping[str, Any] | None = None) -> Reply:
        """Requests one reply.

        Args:
            messages: the chat so far.
            schema: JSON schema of the reply, used where the server supports one.

        Raises:
            FeatureError: the server cannot be reached, returns an error, or returns no chat completion.
        """
        import openai

        format_name = self.response_formats[0] if schema is not None and self.response_formats else None
        extra: dict[str, Any] = {}
        if format_name == "json_schema":
            named = {"name": "answer", "strict": True, "schema": dict(schema or {})}
            extra["response_format"] = {"type": format_name, "json_schema": named}
        elif format_name is not None:
            extra["response_format"] = {"type": format_name, "schema": dict(schema or {})}
        try:
            completion = self._client.chat.completions.create(
                model=self.model, messages=[dict(m) for m in messages], **self.parameters, **extra
            )
        except openai.OpenAIError as cause:
            if format_name is not None and _is_unknown_format(cause):
                # The same value in every thread.
                self.response_formats = RESPONSE_FORMATS[RESPONSE_FORMATS.index(format_name) + 1 :]
                return self.ask(messages, schema)
            raise as_feature_error(cause, self._where(), self.endpoint.key_hint) from cause
        except ValueError as cause:  # invalid JSON
            raise FeatureError(
                f"{self._where()}: the response is not JSON ({_first_line(cause)}); check the base URL"
            ) from cause
        choices = getattr(completion, "choices", None)
        if not choices or getattr(choices[0], "message", None) is None:
            raise FeatureError(f"{self._where()}: the response is not a chat completion; check the base URL")
        usage = getattr(completion, "usage", None)
        return Reply(
            str(choices[0].message.content or ""),
            str(choices[0].finish_reason or ""),
            str(completion.model or self.model),
            int(getattr(usage, "prompt_tokens", 0) or 0),
            int(getattr(usage, "completion_tokens", 0) or 0),
        )

    def _count(self, response: Any) -> None:
        if response.status_code >= 400:
            with self._lock:
                self.error_statuses[int(response.status_code)] += 1

    def _where(self) -> str:
        return f"{self.endpoint}, model {self.model!r}"


def _is_unknown_format(cause: openai.OpenAIError) -> bool:
    """Whether the server rejected ``response_format``; servers use many statuses (llama-cpp-python: 500)."""
    status = getattr(cause, "status_code", 0)
    return status in (400, 422) or (status >= 500 and "response_format" in str(cause))


def as_feature_error(cause: Exception, where: str, key_variable: str) -> FeatureError:
    """Converts a client error into one that says what to do."""
    import openai

    if isinstance(cause, openai.APITimeoutError):
        return FeatureError(f"{where}: repeated timeouts; raise the option timeout or lower --concurrency")
    if isinstance(cause, openai.APIConnectionError):
        return FeatureError(
            f"{where}: cannot be reached ({_first_line(cause)}); check --base-url and the server"
        )
    status = getattr(cause, "status_code", None)
    if status in (401, 403):
        return FeatureError(
            f"{where}: the server rejected the API key ({status}); set {key_variable} to a valid key"
        )
    if status is not None and 300 <= status < 400:
        return FeatureError(
            f"{where}: the server redirects ({status}) to {location(cause.response)}, which is not followed; "  # type: ignore[attr-defined]
            "set --base-url to the address that is to get the prompts and the key"
        )
    if status == 404:
        return FeatureError(
            f"{where}: not found (404); check --model and --base-url, which often ends in /v1"
        )
    if status == 429:
        return FeatureError(f"{where}: rate limit exceeded (429); lower --concurrency, or continue later")
    return FeatureError(f"{where}: {_first_line(cause)}")


def _first_line(cause: Exception) -> str:
    """The first line of an error message, cut to 200 characters; servers may return whole pages."""
    return (str(cause).splitlines() or [type(cause).__name__])[0][:200]
