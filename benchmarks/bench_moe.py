"""Forward and backward of one layer's experts beside those of `transformers` and a dense product.

Same weights, same tokens, same routing, one process; the sides take turns. The peer is the fastest
of the three implementations of `transformers` (eager, batched_mm, grouped_mm), all three measured.
"All experts" computes every expert for every token in large products. Gradients are taken for
the tokens, the routing weights and the experts.

On a GPU (bfloat16) also: the rate of the layer as a share of a plain matrix product's, measured
in the same run. The routing is random, so the experts get nearly even shares.

`course bench moe` measures on the CPU with 2 threads; `python benchmarks/bench_moe.py --device
cuda` on a GPU.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from bench_decode import row
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from course_utils.display.timing import seconds
from course_utils.moe import experts_dense, experts_fast

Shape = tuple[int, int, int, int, int]  # T, D, E, F, k
ON_CPU: dict[Shape, float | None] = {  # and the ratio to reach against all experts
    (2048, 256, 8, 512, 2): 2.4,
    (2048, 256, 64, 64, 8): 2.0,
    (16, 576, 32, 384, 4): None,
    (1, 576, 32, 384, 4): None,
}
ON_CUDA: tuple[Shape, ...] = ((8192, 2048, 64, 1408, 6), (8192, 4096, 128, 1536, 8))
PEERS = ("eager", "batched_mm", "grouped_mm")
LARGEST_COPY = 2**31  # bytes; batched_mm copies the weights of every pair


class Case:
    """One shape: weights, tokens and a random routing, the same for every side."""

    def __init__(self, shape: Shape, device: str, dtype: torch.dtype):
        T, D, E, width, k = self.shape = shape
        generator = torch.Generator(device).manual_seed(0)

        def normal(*sizes: int, deviation: float = 1.0) -> torch.Tensor:
            numbers = torch.randn(sizes, generator=generator, device=device, dtype=dtype)
            return numbers.mul_(deviation).requires_grad_()

        self.x_TD = normal(T, D)
        self.d_y_TD = torch.randn((T, D), generator=generator, device=device, dtype=dtype)
        logits_TE = torch.randn((T, E), generator=generator, device=device)
        weights_TK, self.experts_TK = logits_TE.softmax(-1).topk(k)
        weights_TK = weights_TK / weights_TK.sum(1, keepdim=True)
        self.weights_TK = weights_TK.to(dtype).requires_grad_()
        shapes = ((E, D, width), (E, D, width), (E, width, D))
        self.stacked = [normal(*sizes, deviation=0.02) for sizes in shapes]

    def ours(self, dispatch: Callable, **options) -> Callable[[], torch.Tensor]:
        """One forward and backward pass through `dispatch`."""
        inputs = (self.x_TD, self.weights_TK, *self.stacked)

        def step() -> torch.Tensor:
            y_TD = dispatch(self.x_TD, self.experts_TK, self.weights_TK, *self.stacked, **options)
            torch.autograd.grad(y_TD, inputs, self.d_y_TD)
            return y_TD.detach()

        return step

    def theirs(self) -> dict[str, Callable[[], torch.Tensor]]:
        """One forward and backward pass through each implementation of `transformers`."""
        T, D, E, width, k = self.shape
        config = MixtralConfig(
            hidden_size=D, intermediate_size=width, num_local_experts=E, num_experts_per_tok=k
        )
        config._experts_implementation = "eager"
        with torch.device("meta"):
            module = MixtralExperts(config)
        w_gate_EDF, w_up_EDF, w_down_EFD = (weight.detach() for weight in self.stacked)
        fused = torch.cat([w_gate_EDF.mT, w_up_EDF.mT], dim=1)
        module.gate_up_proj = torch.nn.Parameter(fused)
        module.down_proj = torch.nn.Parameter(w_down_EFD.mT.contiguous())
        inputs = (self.x_TD, self.weights_TK, *module.parameters())

        def step(name: str) -> torch.Tensor:
            module.config._experts_implementation = name
            y_TD = module(self.x_TD, self.experts_TK, self.weights_TK)
            torch.autograd.grad(y_TD, inputs, self.d_y_TD)
            return y_TD.detach()

        copied = 3 * T * k * D * width * self.x_TD.element_size()
        names = [name for name in PEERS if name != "batched_mm" or copied <= LARGEST_COPY]
        return {name: lambda name=name: step(name) for name in names}

    @property
    def operations(self) -> int:
        """Multiplications and additions of one forward and backward pass: 3 times the forward."""
        T, D, _, width, k = self.shape
        return 3 * 2 * 3 * T * k * D * width


def in_turns(sides: dict[str, Callable], rounds: int, wait: Callable) -> dict[str, float]:
    """Median seconds of each side; the order turns too, so that nobody is always first."""
    names = list(sides)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            wait()
            times[name].append(seconds(lambda name=name: (sides[name](), wait())))
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def measure(shape: Shape, device: str, dtype: torch.dtype, rounds: int) -> tuple[Case, dict]:
    """Seconds of "ours", "all experts" and every peer, which must agree in their result."""
    case = Case(shape, device, dtype)
    sides = {"ours": case.ours(experts_fast, identity=False), **case.theirs()}
    if device == "cpu":
        sides["all experts"] = case.ours(experts_dense)
    expected = sides["ours"]()
    for name, side in sides.items():
        error = (side() - expected).norm() / expected.norm()
        if error > (1e-4 if dtype == torch.float32 else 2e-2):
            raise ValueError(f"{name} gives another result at {shape}: relative error {error:.1e}")
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    return case, in_turns(sides, rounds, wait)


def compare(shape: Shape, times: dict[str, float], against_all: float | None) -> list[dict]:
    """Rows: passes per second beside the fastest peer's, and beside all experts'."""
    label = "T {}, D {}, E {}, F {}, k {}".format(*shape)
    best = min((name for name in times if name in PEERS), key=times.get)
    ours = 1 / times["ours"]
    rows = [row(f"{label}: passes/s, {best}", ours, 1 / times[best], 1.0)]
    if "all experts" in times:
        name = f"{label}: passes/s, all experts"
        rows.append(row(name, ours, 1 / times["all experts"], against_all or 1.0))
    return rows


def dense_rate(shape: Shape) -> float:
    """Operations per second of a plain bfloat16 product with as many rows as the layer has."""
    T, D, _, width, k = shape
    a = torch.randn(T * k, D, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(D, 2 * width, device="cuda", dtype=torch.bfloat16)
    times = in_turns({"product": lambda: a @ b}, 30, torch.cuda.synchronize)
    return 2 * a.shape[0] * b.numel() / times["product"]


def on_cpu(shape: Shape) -> list[dict]:
    """The rows of one shape: float32, two threads."""
    torch.set_num_threads(2)
    _, times = measure(shape, "cpu", torch.float32, rounds=9)
    return compare(shape, times, ON_CPU[shape])


def on_gpu(shape: Shape) -> list[dict]:
    """The rows of one shape in bfloat16, with the shares of the rate of a dense product."""
    case, times = measure(shape, "cuda", torch.bfloat16, rounds=20)
    whole, peer = dense_rate(shape) / 1e12, min(times[name] for name in PEERS if name in times)
    ours, theirs = (case.operations / t / 1e12 for t in (times["ours"], peer))
    return [
        *compare(shape, times, None),
        row("  TFLOP/s, beside one dense product", ours, whole, 0.6),
        row("  the fastest peer's, beside the same", theirs, whole, 0.6),
    ]


def run() -> list[dict]:
    """Rows for `course bench moe`: the CPU."""
    return [line for shape in ON_CPU for line in on_cpu(shape)]


def main() -> None:
    """Print the rows of one device, shape after shape."""
    parser = argparse.ArgumentParser(description="Experts beside those of transformers.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    on_gpus = parser.parse_args().device == "cuda"
    for shape in ON_CUDA if on_gpus else ON_CPU:
        for line in on_gpu(shape) if on_gpus else on_cpu(shape):
            form = "{name}: {ours:.4g} {peer:.4g} ratio {ratio:.2f} (target {target})"
            print(form.format(**line), flush=True)


if __name__ == "__main__":
    main()
