"""From a checked body to work for the engine: prompts as ids, parameters, and the tool to call.

What depends on the server is checked here: the model's name, the context, the number of answers.
Answer `i` of `n` has the seed `seed + i`, so that the first of many is the one that n=1 would give;
without a seed it is drawn, and two requests differ.
"""

import random
from functools import cache

from course_utils.data.tokenizer import Tokenizer
from course_utils.serving.backends import Backend
from course_utils.serving.config import ServerConfig
from course_utils.serving.errors import ApiError
from course_utils.serving.jobs import Ask
from course_utils.serving.params import SamplingParams
from course_utils.serving.schemas import Asked, ChatRequest, CompletionRequest, Message, ToolChoice
from course_utils.serving.templates import Turn
from course_utils.serving.tools import properties
from course_utils.serving.wire import Form
from course_utils.serving.work import Service, Work

COMPLETION_TOKENS = 16  # OpenAI's default


def completion(body: CompletionRequest, service: Service) -> Work:
    """Work of POST /v1/completions."""
    backend = service.backend
    many = isinstance(body.prompt, list) and not isinstance(body.prompt[0], int)
    prompts = body.prompt if many else [body.prompt]
    told = -1 if body.logprobs is None else body.logprobs
    wanted = body.max_tokens or COMPLETION_TOKENS
    encoded = [_encoded(prompt, backend) for prompt in prompts]
    return _work(body, service, encoded, wanted, told, chat=False)


def chat(body: ChatRequest, service: Service) -> Work:
    """Work of POST /v1/chat/completions."""
    backend = service.backend
    turns = [_turn(message) for message in body.messages]
    tools = [tool.function.model_dump(exclude_none=True) for tool in body.tools or ()]
    shown = tools if body.tool_choice != "none" else []
    _check_length("".join(turn.text for turn in turns), backend)
    prompt = backend.template(backend.tokenizer, turns, shown)
    wanted = body.max_completion_tokens or body.max_tokens
    left = backend.context - len(prompt)
    told = (body.top_logprobs or 0) if body.logprobs else -1
    wanted = wanted or max(1, min(service.config.max_tokens, left))
    work = _work(body, service, [prompt], wanted, told, chat=True)
    work.tools = _tools_to_call(body, turns, backend)
    if work.tools and len(work.asks) > 1:
        raise ApiError(400, "n must be 1 where a tool is called.", "invalid_value", "n")
    return work


def check_model(body: Asked, backend: Backend) -> None:
    """Raise ApiError unless it is the model that is served."""
    if body.model != backend.name:
        raise ApiError(
            404,
            f"The model {body.model!r} does not exist; this server has {backend.name!r}.",
            "model_not_found",
            "model",
        )


def _work(
    body: Asked, service: Service, prompts: list[list[int]], wanted: int, told: int, chat: bool
) -> Work:
    backend, config = service.backend, service.config
    n = body.n or 1
    _check_count(n * len(prompts), config)
    for prompt in prompts:
        _check_context(len(prompt), wanted, backend, "messages" if chat else "prompt")
    seed = random.getrandbits(62) if body.seed is None else body.seed
    stop_ids = () if body.ignore_eos else (backend.tokenizer.end_id,)
    asks = [
        Ask(prompt, _params(body, wanted, told, seed + number, stop_ids))
        for prompt in prompts
        for number in range(n)
    ]
    usage = bool(body.stream_options and body.stream_options.include_usage)
    return Work(Form(chat, backend.name, told >= 0, usage), asks, n)


def _params(
    body: Asked, max_tokens: int, told: int, seed: int, stop_ids: tuple[int, ...]
) -> SamplingParams:
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_k=body.top_k,
        top_p=1.0 if body.top_p is None else body.top_p,
        min_p=body.min_p,
        seed=seed % 2**63,
        stop=body.stops,
        stop_ids=stop_ids,
        logprobs=told,
    )


def _encoded(prompt: str | list[int], backend: Backend) -> list[int]:
    if isinstance(prompt, list):
        return prompt
    _check_length(prompt, backend)
    return backend.tokenizer.encode(prompt) or [backend.tokenizer.end_id]


def _turn(message: Message) -> Turn:
    role = "system" if message.role == "developer" else message.role
    calls = [(one.function.name, one.function.arguments) for one in message.tool_calls or ()]
    return Turn(role, message.text, tuple(calls))


def _check_length(text: str, backend: Backend) -> None:
    """Refuse what cannot fit before it is encoded, which takes time."""
    if len(text) > backend.context * _longest_token(backend.tokenizer):
        raise _too_long(f"{len(text)} characters", backend, None)


@cache
def _longest_token(tokenizer: Tokenizer) -> int:
    """Bytes."""
    return int(tokenizer.token_bytes().max())


def _check_context(prompt: int, wanted: int, backend: Backend, param: str) -> None:
    if prompt + wanted > backend.context:
        asked = f"{prompt + wanted} tokens ({prompt} in the {param}, {wanted} in the completion)"
        raise _too_long(asked, backend, param)


def _too_long(asked: str, backend: Backend, param: str | None) -> ApiError:
    message = (
        f"This model's maximum context length is {backend.context} tokens. However, you requested "
        f"{asked}. Please reduce the length of the prompt or of the completion."
    )
    return ApiError(400, message, "context_length_exceeded", param)


def _check_count(asks: int, config: ServerConfig) -> None:
    if asks > config.max_n:
        raise ApiError(
            400,
            f"{asks} answers to one request: this server gives at most {config.max_n}.",
            "invalid_value",
            "n",
        )


def _tools_to_call(body: ChatRequest, turns: list[Turn], backend: Backend) -> dict[str, dict]:
    """The tools of which one is called now, with the properties to fill; empty: none is."""
    tools, choice = (
        {tool.function.name: tool.function for tool in body.tools or ()},
        body.tool_choice,
    )
    if not tools:
        if choice not in (None, "none", "auto"):
            raise ApiError(400, "tool_choice needs tools.", "invalid_value", "tool_choice")
        return {}
    names = list(tools)
    if isinstance(choice, ToolChoice):
        if choice.function.name not in tools:
            raise ApiError(
                400,
                f"tool_choice names {choice.function.name!r}; the tools are {', '.join(names)}.",
                "invalid_value",
                "tool_choice",
            )
        names = [choice.function.name]
    elif choice in (None, "auto"):
        chosen = backend.choose_tool(turns, names)
        names = [chosen] if chosen else []
    elif choice == "none":
        names = []
    try:
        return {name: properties(tools[name].parameters) for name in names}
    except ValueError as error:
        raise ApiError(400, f"tools: {error}.", "invalid_function_parameters", "tools") from error
