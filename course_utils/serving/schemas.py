"""What clients may send: the fields of OpenAI's completions and chat completions, checked.

Types are strict: "0.5" is no temperature. A field that would change the answer and is not built
here is refused by name unless it has the value that changes nothing; a field that nobody knows is
refused too, as it is most often a slip of the pen. Fields that no answer depends on (`user`,
`metadata`, ...) are ignored. `top_k`, `min_p` and `ignore_eos` are vLLM's
additions, which OpenAI's client sends as `extra_body`.

Source: OpenAI's API reference, "Completions" and "Chat completions".
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
IGNORED = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
NEUTRAL: dict[str, tuple] = {  # not built: accepted where it changes nothing
    "presence_penalty": (0, None),
    "frequency_penalty": (0, None),
    "logit_bias": ({}, None),
    "response_format": ({"type": "text"}, None),
    "best_of": (1, None),
    "echo": (False, None),
    "suffix": ("", None),
    "parallel_tool_calls": (True, False, None),
}


class Strict(BaseModel):
    """No field but those that are named, no types but theirs."""

    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(Strict):
    """`include_usage`: a last event with the usage."""

    include_usage: bool = False
    include_obfuscation: bool = False


class Asked(Strict):
    """What both endpoints share."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] = 0
    min_p: Annotated[float, Field(ge=0, lt=1)] = 0.0
    n: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    ignore_eos: bool = False

    @model_validator(mode="before")
    @classmethod
    def _without_the_neutral(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        kept = {name: value for name, value in body.items() if name not in IGNORED}
        for name, values in NEUTRAL.items():
            if name in kept and (value := kept.pop(name)) not in values:
                raise ValueError(f"{name}={value!r} is not supported: leave it out")
        return kept

    @model_validator(mode="after")
    def _options_need_a_stream(self):
        if self.stream_options and not self.stream:
            raise ValueError("stream_options are for stream=true")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop texts."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class CompletionRequest(Asked):
    """POST /v1/completions."""

    prompt: str | Ids | Annotated[list[str], Field(min_length=1)] | list[Ids]
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None


class TextPart(Strict):
    """Text among the parts of a message."""

    type: Literal["text"]
    text: str


class Called(Strict):
    """The name of a tool and its arguments, as JSON text."""

    name: str
    arguments: str


class ToolCall(Strict):
    """A call that an assistant's message made."""

    id: str
    type: Literal["function"] = "function"
    function: Called


class Message(Strict):
    """A turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    refusal: None = None  # this and the next: what the client's own message holds when sent back
    annotations: list | None = None
    audio: None = None
    function_call: None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """The words of the message."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class Function(Strict):
    """A tool as the model sees it; `parameters` is a JSON schema."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    """A function that the model may call."""

    type: Literal["function"]
    function: Function


class Named(Strict):
    """The name in a choice of tool."""

    name: str


class ToolChoice(Strict):
    """The tool that must be called."""

    type: Literal["function"]
    function: Named


class ChatRequest(Asked):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None

    @field_validator("messages")
    @classmethod
    def _tools_answer_calls(cls, messages: list[Message]) -> list[Message]:
        """A tool's message must answer a call of the assistant's message before it."""
        open_calls: set[str] = set()
        for number, message in enumerate(messages):
            if message.role == "tool":
                if message.tool_call_id not in open_calls:
                    raise ValueError(
                        f"messages[{number}] has role 'tool' and answers no call: it must follow "
                        "the assistant's message with 'tool_calls' and repeat the call's id"
                    )
                open_calls.remove(message.tool_call_id)
            elif open_calls:
                raise ValueError(
                    f"messages[{number}] comes before the answers to tool calls "
                    f"{sorted(open_calls)}: add a 'tool' message for each"
                )
            elif message.role == "assistant":
                open_calls = {call.id for call in message.tool_calls or ()}
            elif message.content is None:
                raise ValueError(f"messages[{number}] has no content")
        return messages

    @model_validator(mode="after")
    def _logprobs_before_top(self):
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs=true")
        return self
