"""Packed weights: one product beside float32 and PyTorch's and torchao's own ways, then SmolLM2.

Products are measured cold, as decoding meets them: each call takes another copy of the weight, of
which there are 512 MiB in float32, and all sides take turns. Times are microseconds a call.

SmolLM2 decodes one token at a time after a prompt of 8; the prompt is not timed. The parts of a
step are measured alone, on the same weights: products of the layers, head, attention; what is left
is starting some 30 calls a layer. torchao is in the oracles' environment, so run it there:
`.venv-oracles/bin/course bench quant`.
"""

import copy
import statistics
import time
from collections.abc import Callable

import llama_cpp
import torch
import torch.nn.functional as F
from bench_decode import bandwidth, row, transformers_twin
from bench_moe import in_turns
from torch import Tensor, nn

from course_utils.models.pretrained import smollm2
from course_utils.quantization import (
    PackedWeight,
    QuantizationArgs,
    QuantizedLinear,
    choose_kernel,
    quantize_model,
    weight_bytes,
)
from course_utils.quantization.fast_decode import FastDecoder
from course_utils.quantization.kernels import Dequantize

SHAPES = ((1, 1536, 576), (2, 1536, 576), (4, 1536, 576), (1, 4096, 4096))  # rows, O, I
INT8, INT4 = QuantizationArgs(8), QuantizationArgs(4, True, "group", 32)
FLOAT_BYTES = 2**29
PROMPT, STEPS, ROUNDS = list(range(1000, 1008)), 32, 5
FAR_TOO_SLOW = 6  # copies that are enough for a side that takes milliseconds


def over(calls: list[Callable[[], Tensor]]) -> Callable[[], None]:
    """A function that makes all calls, one after another."""

    def run() -> None:
        for call in calls:
            call()

    return run


class Bare(nn.Module):
    """One call between two conversions."""

    def __init__(self, product: Callable):
        super().__init__()
        self.product = product

    def forward(self, x_TI: Tensor) -> Tensor:
        return self.product(x_TI.to(torch.bfloat16)).float()


class Product:
    """One shape: the same weight in many copies, for every way to multiply by it."""

    def __init__(self, rows: int, outputs: int, inputs: int):
        self.label = f"{rows} x {outputs} x {inputs}"
        self.copies = max(4, FLOAT_BYTES // (outputs * inputs * 4))
        generator = torch.Generator().manual_seed(0)
        self.x_TI = torch.randn(rows, inputs, generator=generator)
        self.weight_OI = torch.randn(outputs, inputs, generator=generator) * 0.02

    def side(self, make: Callable[[], Callable], copies: int | None = None) -> tuple:
        """The calls of one way, and how many they are; `make` builds one copy."""
        calls = [make() for _ in range(copies or self.copies)]
        return over([lambda call=call: call(self.x_TI) for call in calls]), len(calls)

    def ours(self, args: QuantizationArgs) -> tuple:
        weight = PackedWeight.quantize(self.weight_OI, args)
        return self.side(lambda: QuantizedLinear(choose_kernel(weight.map(torch.clone))))

    def floats(self) -> tuple:
        def make():
            weight_OI = self.weight_OI.clone()
            return lambda x_TI: F.linear(x_TI, weight_OI)

        return self.side(make)

    def bare(self, args: QuantizationArgs) -> tuple:
        """PyTorch's kernel in a layer that does nothing else but convert."""
        weight = PackedWeight.quantize(self.weight_OI, args)
        return self.side(lambda: Bare(choose_kernel(weight.map(torch.clone)).product))

    def dynamic(self) -> tuple:
        """int8 activations too: less exact, so another job; shown, not a peer."""
        weight = PackedWeight.quantize(self.weight_OI, INT8)
        return self.side(lambda: choose_kernel(weight.map(torch.clone), "dynamic_int8"))

    def torchao(self, args: QuantizationArgs) -> dict[str, tuple]:
        """torchao's weight-only layers, with float32 and with bfloat16 activations."""
        try:
            from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
            from torchao.quantization import Int8WeightOnlyConfig, quantize_
        except ImportError:
            return {}
        is_int8 = args == INT8
        config = Int8WeightOnlyConfig() if is_int8 else PrototypeInt4WeightOnlyConfig(group_size=32)

        def make(dtype: torch.dtype):
            layer = nn.Linear(*self.weight_OI.T.shape, bias=False)
            layer.weight.data.copy_(self.weight_OI)
            model = nn.Sequential(layer.to(dtype))
            quantize_(model, config)
            return lambda x_TI: model(x_TI.to(dtype)).float()

        return {
            f"torchao {dtype}".replace("torch.", ""): self.side(
                lambda d=dtype: make(d), FAR_TOO_SLOW
            )
            for dtype in (torch.float32, torch.bfloat16)
        }


def measured(sides: dict[str, tuple]) -> dict[str, float]:
    """Microseconds a call of every side."""
    found = in_turns({name: run for name, (run, _) in sides.items()}, ROUNDS, lambda: None)
    return {name: seconds / sides[name][1] * 1e6 for name, seconds in found.items()}


def product_rows() -> list[dict]:
    """Decode shapes: against float32, and against the fastest way that others offer."""
    rows = []
    for shape in SHAPES:
        for name, args, target in (("int8", INT8, 2.0), ("int4", INT4, 1.5)):
            product = Product(*shape)
            sides = {"float32": product.floats(), "ours": product.ours(args)}
            sides["PyTorch's kernel alone"] = product.bare(args)
            sides |= product.torchao(args)
            if args == INT8:
                sides["dynamic_int8"] = product.dynamic()
            us = measured(sides)
            label, ours = f"{name} {product.label}", us.pop("ours")
            rows.append(slower(f"{label}: over float32, us", ours, us.pop("float32"), target))
            if "dynamic_int8" in us:
                rows.append(
                    slower(f"{label}: dynamic int8, us", ours, us.pop("dynamic_int8"), None)
                )
            fastest = min(us, key=us.get)
            rows.append(slower(f"{label}: {fastest}, us", ours, us[fastest], 1 / 1.1))
    return rows


def losing_rows() -> list[dict]:
    """Where packed weights lose to float32, or would: prefill, activations, dequantizing."""
    one, many = Product(1, 1536, 576), Product(512, 1536, 576)
    weights = {args: PackedWeight.quantize(one.weight_OI, args) for args in (INT8, INT4)}
    few = dict(copies=FAR_TOO_SLOW)
    int8 = choose_kernel(weights[INT8])
    ones = {
        "float32": one.side(lambda: lambda x: F.linear(x, one.weight_OI), **few),
        "int8, float32 activations": one.side(
            lambda: lambda x: torch._weight_int8pack_mm(x, int8.codes_OI, int8.scale_O.float()),
            **few,
        ),
        "int8, dequantize then multiply": one.side(lambda: Dequantize(weights[INT8]), **few),
    }
    blocks = {
        "float32": many.side(lambda: lambda x: F.linear(x, many.weight_OI), **few),
        "int8, kernel": many.side(lambda: lambda x: int8.product(x.bfloat16()).float(), **few),
        "int8, as chosen": many.side(lambda: QuantizedLinear(int8), **few),
        "int4, kernel": many.side(lambda: QuantizedLinear(choose_kernel(weights[INT4])), **few),
    }
    rows = []
    for label, sides in ((one.label, ones), (many.label, blocks)):
        us = measured(sides)
        peer = us.pop("float32")
        rows += [
            slower(f"{name}, {label}: over float32, us", t, peer, None) for name, t in us.items()
        ]
    return rows


def slower(name: str, ours: float, peer: float, target: float | None) -> dict:
    """A row of times: the ratio says how many times as long the peer takes."""
    return row(name, ours, peer, target) | {"ratio": peer / ours}


def seconds_per_step(model: nn.Module) -> float:
    """Greedy decoding with one of the course's models, after the prompt."""
    cache = model.new_cache(capacity=len(PROMPT) + STEPS)
    ids_11 = model(torch.tensor([PROMPT]), cache)[:, -1:].argmax(-1)
    begin = time.perf_counter()
    for _ in range(STEPS):
        ids_11 = model(ids_11, cache)[:, -1:].argmax(-1)
    return (time.perf_counter() - begin) / STEPS


def seconds_per_step_transformers(twin: nn.Module) -> float:
    """The same with `transformers`: its forward in a loop, without the costs of its `generate`."""
    out = twin(torch.tensor([PROMPT]), use_cache=True)
    begin = time.perf_counter()
    for _ in range(STEPS):
        ids_11 = out.logits[:, -1:].argmax(-1)
        out = twin(ids_11, past_key_values=out.past_key_values, use_cache=True)
    return (time.perf_counter() - begin) / STEPS


def take_turns(sides: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Median of what each side reports, the order turning; the first round only warms up."""
    names, found = list(sides), {name: [] for name in sides}
    for number in range(ROUNDS + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            found[name].append(sides[name]())
    return {name: statistics.median(times[1:]) for name, times in found.items()}


def model_rows() -> list[dict]:
    """SmolLM2, tokens per second at batch 1, and where the time of a step goes."""
    floats = smollm2().model
    twin = transformers_twin(floats)
    grid = QuantizationArgs(4, False, "group", 32)
    recipes = {
        "int8": (INT8, None),
        "int8, int8 activations": (INT8, "dynamic_int8"),
        "int4": ({"lm_head": INT8, "*": grid}, None),
    }
    fast = {
        name: FastDecoder(quantize_model(copy.deepcopy(floats), *recipe))
        for name, recipe in recipes.items()
    }
    plain = quantize_model(copy.deepcopy(floats), INT8)
    models = {"float32": floats, "int8, layer by layer": plain, **fast}
    sides = {name: lambda model=model: seconds_per_step(model) for name, model in models.items()}
    sides["transformers"] = lambda: seconds_per_step_transformers(twin)
    servers = llama_cpp.peers(torch.get_num_threads())
    for name, server in servers.items():
        sides[name] = lambda server=server: server.seconds_per_token(PROMPT, STEPS)
    seconds = take_turns(sides)
    for server in servers.values():
        server.stop()
    pairs = [("int8", "transformers", 2.3), ("int8", "float32", None)]
    pairs += [("int8", "int8, layer by layer", None), ("int4", "transformers", None)]
    for peer, names in (
        ("llama.cpp Q8_0", ("int8", "int8, int8 activations")),
        ("llama.cpp Q4_1", ("int4",)),
    ):
        pairs += [(name, peer, 1 / 1.5) for name in names if peer in seconds]
    rows = [
        row(
            f"SmolLM2 {ours} against {peer}, tokens/s", 1 / seconds[ours], 1 / seconds[peer], target
        )
        for ours, peer, target in pairs
    ]
    for name in ("int8", "int4"):
        rows += parts_of_a_step(name, fast[name])
    return rows


def parts_of_a_step(name: str, fast: FastDecoder) -> list[dict]:
    """Milliseconds of each part of a step, and its share; the last row is the memory's bound."""
    D, d = fast.config.hidden_size, fast.config.head_dim
    G = fast.config.num_key_value_heads
    kernels = [
        k for layer in fast.layers for k in (layer.qkv, layer.out, layer.gate_up, layer.down)
    ]
    widths = [kernel.shape[1] for kernel in kernels]
    inputs = {width: torch.randn(1, width).bfloat16() for width in set(widths)}
    head, length = fast.model.lm_head.kernel, len(PROMPT) + STEPS // 2
    cache = torch.randn(len(fast.layers), 2, 1, G, length, d)
    q_1Ghd = torch.randn(1, G, fast.config.num_attention_heads // G, d)
    products = over(
        [lambda k=k, w=w: k.product(inputs[w]) for k, w in zip(kernels, widths, strict=True)]
    )
    sides = {
        "products of the layers": products,
        "head": lambda: head.product(inputs[D]),
        "attention": over(
            [lambda kv=kv: F.scaled_dot_product_attention(q_1Ghd, *kv) for kv in cache]
        ),
    }
    timed = {part: lambda run=run: timeit(run) for part, run in sides.items()}
    ms = {
        n: t * 1000 for n, t in take_turns(timed | {"step": lambda: seconds_per_step(fast)}).items()
    }
    whole = ms.pop("step")
    ms["all other calls"] = whole - sum(ms.values())
    rows = [row(f"{name} step: {part}, ms of all", t, whole, None) for part, t in ms.items()]
    bound = weight_bytes(fast) / bandwidth() * 1000
    return [*rows, row(f"{name} step: memory's bound, ms of all", bound, whole, None)]


def timeit(run: Callable[[], object]) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


@torch.no_grad()
def run() -> list[dict]:
    """Rows for `course bench quant`."""
    return product_rows() + losing_rows() + model_rows()
