"""One MoE layer on several ranks and in one process: equal results, and the bytes on the wire.

    python -m torch.distributed.run --standalone --nproc-per-node 2 \\
        -m course_utils.moe.parallel_demo --limits 2 1 --out result.json

From a notebook: `run_ranks(2, ["-m", "course_utils.moe.parallel_demo", ...])`. On GPUs, one for
each rank: `--device cuda` (NCCL). For each of `--limits` m the router may use m groups of experts,
one group being one rank's; with `--copies n` one more run places the experts and n copies of hot
ones by their loads.

All ranks make the same layer and the same tokens from a seed; each takes its share of the tokens.
Rank 0 writes for every run: the largest differences from the single process (0 to rounding), the
bytes each rank sent to others by kind, what the formula says, and the (token, expert) pairs that
each rank computed. With `--repeat` also median milliseconds, forward and backward.
"""

import argparse
import copy
import json
import os
import statistics
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from course_utils.moe.config import MoEConfig
from course_utils.moe.layer import MoE
from course_utils.moe.load import expert_counts
from course_utils.moe.parallel import (
    copies_to_send,
    parallelize,
    sum_gradients,
    wire_bytes,
)
from course_utils.moe.placement import Placement, balancedness, place, place_contiguously

VECTORS = ("dispatch", "combine", "dispatch backward", "combine backward")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    sizes = {"tokens": 512, "hidden": 64, "experts": 16, "top-k": 4, "width": 32}
    for name, default in (sizes | {"copies": 0, "repeat": 0, "seed": 0}).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--limits", type=int, nargs="+", help="groups a token may use; default all")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", default="float32", help="float32, float64 or bfloat16")
    parser.add_argument("--wait", type=float, default=60.0, help="seconds a rank waits for another")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def problem(
    options: argparse.Namespace, limit: int, device: torch.device
) -> tuple[MoE, Tensor, Tensor]:
    """The same on every rank: a layer, tokens x (T, D), and the gradient of their outputs (T, D).

    The tokens share a direction, so that some experts are hotter than others.
    """
    config = MoEConfig(
        num_experts=options.experts,
        num_experts_per_tok=options.top_k,
        moe_intermediate_size=options.width,
        n_shared_experts=1,
        n_group=dist.get_world_size(),
        topk_group=limit,
        group_score="max",
    )
    torch.manual_seed(options.seed)
    layer = MoE(options.hidden, config)
    for weight in layer.parameters():
        torch.nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
    x_TD = torch.randn(options.tokens, options.hidden) + torch.randn(options.hidden)
    dy_TD = torch.randn(options.tokens, options.hidden)
    dtype = getattr(torch, options.dtype)
    return layer.to(device, dtype), x_TD.to(device, dtype), dy_TD.to(device, dtype)


def forward_backward(layer: MoE, x_TD: Tensor, dy_TD: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs, and gradients of x; gradients of weights are left in the layer."""
    layer.zero_grad()
    x_TD = x_TD.detach().requires_grad_()
    y_TD = layer(x_TD)
    y_TD.backward(dy_TD)
    return y_TD.detach(), x_TD.grad


def milliseconds(layer: MoE, x_TD: Tensor, dy_TD: Tensor, repeat: int) -> float:
    """Median over `repeat` forward and backward passes, after one more to warm up."""
    times = []
    for _ in range(repeat + 1):
        dist.barrier()
        began = time.perf_counter()
        forward_backward(layer, x_TD, dy_TD)
        if x_TD.is_cuda:
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times[1:])


def compare(single: MoE, parallel: MoE, x_TD: Tensor, dy_TD: Tensor) -> dict[str, float]:
    """The largest difference of each result, over all ranks, relative to its largest value."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    own = torch.arange(len(x_TD), device=x_TD.device).tensor_split(ranks)[rank]
    y_TD, dx_TD = forward_backward(single, x_TD, dy_TD)
    own_y_TD, own_dx_TD = forward_backward(parallel, x_TD[own], dy_TD[own])
    sum_gradients(parallel)
    pairs = {"output": (y_TD[own], own_y_TD), "x gradient": (dx_TD[own], own_dx_TD)}
    for name, weight in single.named_parameters():
        gradient = parallel.get_parameter(name).grad
        expected = weight.grad
        if name.startswith("experts."):
            expected = expected[parallel.experts.hosted]
        pairs[f"{name} gradient"] = (expected, gradient)
    worst = {}
    for name, (one, other) in pairs.items():
        difference = torch.zeros(2, dtype=torch.float64, device=x_TD.device)
        if one.numel():
            difference[0] = (one - other).abs().max()
            difference[1] = one.abs().max()
        dist.all_reduce(difference, op=dist.ReduceOp.MAX)
        worst[name] = float(difference[0] / difference[1])
    return worst


def run(options: argparse.Namespace, limit: int, copies: int, device: torch.device) -> dict:
    """One layer, one placement: compare, count, and time if asked for."""
    ranks = dist.get_world_size()
    single, x_TD, dy_TD = problem(options, limit, device)
    single(x_TD)
    experts_TK = single.routing.experts_TK
    loads = expert_counts(experts_TK, options.experts).tolist()
    placement: Placement = place_contiguously(options.experts, ranks)
    if copies:
        placement = place(loads, options.experts + copies, ranks)
    parallel = parallelize(copy.deepcopy(single), placement)
    result = {"limit": limit, "placement": placement, "loads": loads}
    result["errors"] = compare(single, parallel, x_TD, dy_TD)
    mine = _count(parallel, len(x_TD))
    everyone: list[dict] = [{} for _ in range(ranks)]
    dist.all_gather_object(everyone, mine)
    result["balancedness"] = balancedness(loads, placement)
    result["pairs_per_rank"] = torch.tensor([each["pairs"] for each in everyone]).sum(0).tolist()
    result["sent"] = [each["sent"] for each in everyone]
    result["vector_bytes"] = sum(each["sent"].get(kind, 0) for each in everyone for kind in VECTORS)
    result["copies"] = sum(each["copies"] for each in everyone)
    result["formula_bytes"] = wire_bytes(result["copies"], options.hidden, x_TD.element_size())
    result["elsewhere"] = sum(each["elsewhere"] for each in everyone)
    if options.repeat:
        own = torch.arange(len(x_TD), device=device).tensor_split(ranks)[dist.get_rank()]
        result["milliseconds"] = {
            "one process": milliseconds(single, x_TD, dy_TD, options.repeat),
            "parallel": milliseconds(parallel, x_TD[own], dy_TD[own], options.repeat),
        }
    return result


def _count(parallel: MoE, tokens: int) -> dict:
    """What this rank sent, and what it should have: copies and pairs that belong elsewhere."""
    experts, wire = parallel.experts, parallel.experts.wire
    rank_TK, _ = experts.slots.choose(parallel.routing.experts_TK, first=wire.rank)
    rank_C, _ = copies_to_send(rank_TK, wire.ranks)
    return {
        "sent": dict(wire.sent),
        "copies": int((rank_C != wire.rank).sum()),
        "elsewhere": int((rank_TK != wire.rank).sum()),
        "pairs": rank_TK.flatten().bincount(minlength=wire.ranks).tolist(),
    }


def main() -> None:
    options = arguments()
    backend = "nccl" if options.device == "cuda" else "gloo"
    device = torch.device("cpu")
    if options.device == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group(backend, timeout=timedelta(seconds=options.wait))
    try:
        ranks = dist.get_world_size()
        runs = [run(options, limit, 0, device) for limit in options.limits or [ranks]]
        if options.copies:
            runs.append(run(options, ranks, options.copies, device))
        if dist.get_rank() == 0:
            options.out.write_text(json.dumps({"ranks": ranks, "runs": runs}), encoding="utf-8")
        dist.barrier()
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
