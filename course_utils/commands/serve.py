"""`course serve`: a model, or the mock, behind OpenAI's API on this machine.

The process serves until SIGTERM or SIGINT (Ctrl-C). Then it drains: new requests get 503, those
inside go on for up to `--drain` seconds, and it ends with exit code 0. A second signal ends it at
once.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from course_utils.commands.errors import BadArgumentError, CommandError
from course_utils.serving import MockBackend, ServerConfig, serve
from course_utils.serving.backends import Backend

MODELS = ("dense", "moe", "smollm2")
BLOCKS = {"dense": 1024, "moe": 1024, "smollm2": 512}  # of 16 tokens: 64, 64 and 377 MB in float32


@dataclass(frozen=True)
class Choice:
    """What answers."""

    model: str
    mock: bool = False
    int8: bool = False
    speed: float = 1.0  # of the mock's clock

    def __post_init__(self) -> None:
        if self.model not in MODELS and not self.mock:
            raise BadArgumentError(f"unknown model {self.model!r}: choose {', '.join(MODELS)}")
        if self.mock and self.int8:
            raise BadArgumentError("--mock has no weights to quantize: leave --int8 out")
        if self.speed < 0 or (self.speed != 1 and not self.mock):
            raise BadArgumentError(f"--speed {self.speed:g} is for --mock, 0 (no waiting) or more")


def backend_of(choice: Choice) -> Backend:
    """The mock (loads no torch), or the model with its engine."""
    if choice.mock:
        return MockBackend(name=choice.model, speed=choice.speed)
    from course_utils.data.tokenizer import course_tokenizer
    from course_utils.layers import pack_weights
    from course_utils.models import shipped
    from course_utils.models.pretrained import smollm2
    from course_utils.scheduling import SchedulerConfig
    from course_utils.serving import Engine, EngineBackend, chatml, plain

    if choice.model == "smollm2":
        found = smollm2()
        model, tokenizer, template = found.model, found.tokenizer, chatml
    else:
        model, tokenizer, template = shipped(choice.model), course_tokenizer(), plain
    if choice.int8:
        from course_utils.quantization import QuantizationArgs, fuse, quantize_model

        model = fuse(quantize_model(model, QuantizationArgs(8)))
    else:
        model = pack_weights(model)
    engine = Engine(model, SchedulerConfig(BLOCKS[choice.model]), tokenizer)
    return EngineBackend(engine, tokenizer, choice.model, template)


def loaded(choice: Choice) -> Backend:
    """`backend_of`, in a thread that ends.

    OpenMP keeps workers for every thread that has computed. With more of them than cores, GNU's
    lets all sleep between products, and serving loses up to a quarter of its speed (`course bench
    http`): the engine's thread is to be the only one.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(backend_of, choice).result()


def serve_command(choice: Choice, config: ServerConfig) -> None:
    """Serve until a signal; CommandError if requests had to be cut off."""
    open_to_all = config.host not in ("127.0.0.1", "::1", "localhost")

    def started(url: str) -> None:
        print(f"{choice.model}{' (mock)' if choice.mock else ''}: {url}/v1", flush=True)
        if open_to_all and not config.api_key:
            print("other machines may ask too: --api-key would keep strangers out", flush=True)
        print("Ctrl-C ends it, after the answers that have begun", flush=True)

    if not serve(loaded(choice), config, started):
        raise CommandError(f"requests were cut off: not answered within {config.drain:g} s")
