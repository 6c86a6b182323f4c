"""Run on every rank by test_parallel: many cases of a parallel layer beside a single process."""

import argparse
import copy
import json
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from course_utils.moe import MoE, MoEConfig
from course_utils.moe.parallel import parallelize, sum_gradients

D, E, K = 8, 6, 2
BASE = {"num_experts": E, "num_experts_per_tok": K, "moe_intermediate_size": 16}
V3 = BASE | {
    "scoring_func": "sigmoid",
    "use_routing_bias": True,
    "n_shared_experts": 1,
    "routed_scaling_factor": 2.5,
}


def cases(ranks: int) -> dict[str, dict]:
    """Config, tokens of each rank, placement (None: contiguous), experts favoured by the router."""
    even, alone = [20] * ranks, [7] + [0] * (ranks - 1)
    block = E // ranks
    first, last = list(range(block)), list(range(E - block, E))
    scrambled = [list(range(rank, E, ranks)) for rank in range(ranks)]
    copied = [[*row, 0, 5][: block + 2 - rank] for rank, row in enumerate(scrambled)]
    groups = {"n_group": ranks, "topk_group": 1, "group_score": "max"}
    return {
        "even": {},
        "uneven": {"tokens": [9, 2, 4][:ranks]},
        "only rank 0 has tokens": {"tokens": alone},
        "rank 0 has no token": {"tokens": alone[::-1]},
        "no tokens at all": {"tokens": [0] * ranks},
        "one token": {"tokens": [1] + [0] * (ranks - 1)},
        "all to rank 0": {"favoured": first},
        "all to the last rank": {"favoured": last, "tokens": alone},
        "nobody stays at home": {"favoured": last, "tokens": [6] + [0] * (ranks - 1)},
        "shared, bias": {"config": V3, "tokens": [3, 8, 1][:ranks]},
        "one group": {"config": BASE | groups},
        "identity experts": {"config": BASE | {"zero_expert_num": 3}},
        "scrambled": {"placement": scrambled},
        "copies": {"placement": copied, "tokens": [12, 5, 0][:ranks]},
        "all on one rank": {"placement": [list(range(E)), *[[]] * (ranks - 1)]},
        "sixteen bits": {"dtype": "bfloat16"},
    } | {"k = E": {"config": BASE | {"num_experts_per_tok": E}, "tokens": even}}


def build(case: dict) -> MoE:
    torch.manual_seed(1)
    layer = MoE(D, MoEConfig(**case.get("config", BASE)))
    with torch.no_grad():
        for weight in layer.parameters():
            weight.normal_()
        if layer.gate.e_score_correction_bias is not None:
            layer.gate.e_score_correction_bias.normal_()
        if "favoured" in case:
            layer.gate.weight.zero_()
            layer.gate.weight[case["favoured"]] = 1.0
            layer.gate.weight += 1e-3 * torch.randn_like(layer.gate.weight)
    return layer.to(getattr(torch, case.get("dtype", "float64")))


def compare(case: dict, rank: int, ranks: int) -> dict:
    tokens = case.get("tokens", [20] * ranks)
    single = build(case)
    dtype = single.gate.weight.dtype
    x_TD = torch.randn(sum(tokens), D, dtype=dtype)
    if "favoured" in case:
        x_TD = x_TD.abs()  # so that the same experts are best for all tokens
    dy_TD = torch.randn(sum(tokens), D, dtype=dtype)
    parallel = parallelize(copy.deepcopy(single), case.get("placement"))
    own = slice(sum(tokens[:rank]), sum(tokens[: rank + 1]))
    inputs = [x_TD.clone().requires_grad_(), x_TD[own].clone().requires_grad_()]
    outputs = [single(inputs[0]), parallel(inputs[1])]
    outputs[0].backward(dy_TD)
    outputs[1].backward(dy_TD[own])
    sum_gradients(parallel)
    differences = {"y": error(outputs[0][own], outputs[1])}
    differences["dx"] = error(inputs[0].grad[own], inputs[1].grad)
    for name, weight in single.named_parameters():
        expected = torch.zeros_like(weight) if weight.grad is None else weight.grad
        if name.startswith("experts."):
            expected = expected[parallel.experts.hosted]
        differences[name] = error(expected, parallel.get_parameter(name).grad)
    return {
        "differences": differences,
        "largest": float(outputs[0].abs().max()) if sum(tokens) else 0.0,
        "sent": dict(parallel.experts.wire.sent),
        "experts": parallel.routing.experts_TK.tolist(),
        "placement": case.get("placement"),
        "itemsize": x_TD.element_size(),
    }


def error(expected: torch.Tensor, got: torch.Tensor) -> float:
    assert expected.shape == got.shape and expected.dtype == got.dtype
    return float((expected - got).abs().max()) if expected.numel() else 0.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    dist.init_process_group("gloo", timeout=timedelta(seconds=30))
    rank, ranks = dist.get_rank(), dist.get_world_size()
    everyone: list[dict] = [{} for _ in range(ranks)]
    results = {name: compare(case, rank, ranks) for name, case in cases(ranks).items()}
    dist.all_gather_object(everyone, results)
    if rank == 0:
        parser.parse_args().out.write_text(json.dumps(everyone))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
