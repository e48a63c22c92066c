"""Any OpenAI-compatible endpoint, through the ``openai`` package: vLLM, Ollama, llama.cpp, gateways."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from graphrec.core.errors import ConfigError, FeatureError, requires
from graphrec.features.extract.llm.responses import Messages, Reply

if TYPE_CHECKING:
    import openai

KEY = "OPENAI_API_KEY"
FORMS = ("json_schema", "json_object")  # of response_format: OpenAI's, and llama.cpp's with the schema inside


class Chat:
    """Asks one model. The key is read from the environment and kept nowhere else.

    Requests that time out, are refused for a while (429) or fail on the server's side (5xx) are sent again by
    the client, after what Retry-After says or a growing, jittered pause; other refusals are final.

    Args:
        model: its name on the server.
        base_url: of the server, such as ``http://localhost:11434/v1``; default: ``OPENAI_BASE_URL`` or
            OpenAI's.
        key_variable: environment variable that holds the key; servers of one's own often need none.
        temperature: of the reply.
        top_p: likewise; a small one keeps to what is listed (LLMRec, Sec. 4).
        max_tokens: longest reply.
        timeout: seconds for one request.
        retries: how often a request is sent again.
        structured: ask for the form of the reply (``response_format``), until the server refuses to.

    Attributes:
        forms: ways to ask for it that the server has not refused, the next one first.
        refused: how often each status was answered, of 400 and above.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        *,
        key_variable: str = KEY,
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
        self.model, self.forms = model, tuple(FORMS if structured else ())
        self.parameters = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
        self.refused: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._client = client(base_url, key_variable, timeout, retries, self._count)
        self._key_variable = key_variable

    def ask(self, messages: Messages, schema: Mapping[str, Any] | None = None) -> Reply:
        """One reply.

        Args:
            messages: of the chat so far.
            schema: JSON schema that the reply has, where the server can be held to one.

        Raises:
            FeatureError: the endpoint is out of reach, refuses, or answers what is no chat completion.
        """
        import openai

        form = self.forms[0] if schema is not None and self.forms else None
        extra: dict[str, Any] = {}
        if form == "json_schema":
            named = {"name": "answer", "strict": True, "schema": dict(schema or {})}
            extra["response_format"] = {"type": form, "json_schema": named}
        elif form is not None:
            extra["response_format"] = {"type": form, "schema": dict(schema or {})}
        try:
            made = self._client.chat.completions.create(
                model=self.model, messages=[dict(m) for m in messages], **self.parameters, **extra
            )
        except openai.APIStatusError as cause:
            if form is not None and _unknown_form(cause):
                self.forms = FORMS[FORMS.index(form) + 1 :]  # the same, whoever else is refused meanwhile
                return self.ask(messages, schema)
            raise self._explained(cause) from cause
        except openai.OpenAIError as cause:
            raise self._explained(cause) from cause
        except ValueError as cause:  # JSON that is none
            raise FeatureError(f"{self._where()}: answered what is no JSON ({_first(cause)})") from cause
        choices = getattr(made, "choices", None)
        if not choices or getattr(choices[0], "message", None) is None:
            raise FeatureError(
                f"{self._where()}: answered what is no chat completion; is it the right address?"
            )
        usage = getattr(made, "usage", None)
        return Reply(
            str(choices[0].message.content or ""),
            str(choices[0].finish_reason or ""),
            str(made.model or self.model),
            int(getattr(usage, "prompt_tokens", 0) or 0),
            int(getattr(usage, "completion_tokens", 0) or 0),
        )

    def _count(self, response: Any) -> None:
        if response.status_code >= 400:
            with self._lock:
                self.refused[int(response.status_code)] += 1

    def _where(self) -> str:
        return f"{self._client.base_url}, model {self.model!r}"

    def _explained(self, cause: Exception) -> FeatureError:
        return explained(cause, self._where(), self._key_variable)


def _unknown_form(cause: openai.APIStatusError) -> bool:
    """Servers that cannot hold a reply to a form say so in many ways, llama-cpp-python's with a 500."""
    return cause.status_code in (400, 422) or (cause.status_code >= 500 and "response_format" in str(cause))


def explained(cause: Exception, where: str, key_variable: str) -> FeatureError:
    """An error of the client as one that says what to do; the key is in none of them."""
    import openai

    if isinstance(cause, openai.APITimeoutError):
        return FeatureError(
            f"{where}: no answer in time, several times; allow more (the option timeout) or ask less at once"
        )
    if isinstance(cause, openai.APIConnectionError):
        return FeatureError(f"{where}: cannot be reached ({_first(cause)}); check --base-url and the server")
    status = getattr(cause, "status_code", None)
    if status in (401, 403):
        return FeatureError(f"{where}: refuses the key ({status}); set {key_variable} to one that may")
    if status == 404:
        return FeatureError(f"{where}: not there (404); check --model and --base-url (it often ends in /v1)")
    if status == 429:
        return FeatureError(f"{where}: still too many requests (429); lower --concurrency, or go on later")
    return FeatureError(f"{where}: {_first(cause)}")


def client(
    base_url: str | None, key_variable: str, timeout: float, retries: int, count: Callable[[Any], None]
) -> Any:
    """The package's client of a server; ``count`` sees every response.

    Raises:
        MissingDependencyError: the extra ``llm`` is not installed.
    """
    try:
        import openai
    except ImportError as cause:
        raise requires("openai", "llm") from cause
    hooks = {"response": [count]}
    return openai.OpenAI(
        base_url=base_url,
        api_key=os.environ.get(key_variable) or "none",
        timeout=timeout,
        max_retries=retries,
        http_client=openai.DefaultHttpxClient(event_hooks=hooks, timeout=timeout),
    )


def _first(cause: Exception) -> str:
    """The first line of what an error says, not all of what a server may have put into it."""
    return (str(cause).splitlines() or [type(cause).__name__])[0][:200]
