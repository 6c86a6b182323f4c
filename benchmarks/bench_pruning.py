"""Cut models beside the uncut one: a forward pass, in turns, and what zeros cost or save.

The course's dense model, float32, 2 threads, random parts cut (which parts leave changes no time).
"Half" means half of every layer's matrices, or half of the layers; the shipped shape is half of all
parameters, table included. A prompt is 512 tokens that ask for the last logits; a batch is 4 x 256
that ask for all. Ours is the cut model, peer the uncut one. The last rows are one matrix of 512 x
192 with half and with nine tenths of zeros as CSR, and 2:4 unpacked, beside the dense product: here
a ratio below 1 says that the zeros cost time.
"""

from functools import partial

import torch
from bench_decode import row
from bench_moe import in_turns

from course_utils.models import shipped
from course_utils.pruning import (
    pack_2_4,
    prune_channels,
    prune_heads,
    prune_layers,
    to_csr,
    two_four_mask,
)

ROUNDS = 21


def cut_models() -> dict[str, torch.nn.Module]:
    """The uncut model, its halves, and the shape that ships."""
    dense = shipped("dense")
    narrow = prune_heads(dense, [[0, 1, 2]] * 8)
    return {
        "uncut": dense,
        "half width": prune_channels(narrow, [{"mlp": range(256)}] * 8),
        "half depth": prune_layers(dense, range(4)),
        "half of all parameters, width": prune_channels(narrow, [{"mlp": range(168)}] * 8),
        "half of all parameters, depth": prune_layers(dense, range(3)),
    }


def matrix_sides() -> dict[str, object]:
    """One product of 512 tokens with a matrix and its thinned forms."""
    g = torch.Generator().manual_seed(0)
    weight, x = torch.randn(512, 192, generator=g), torch.randn(512, 192, generator=g)
    packed = pack_2_4(weight, two_four_mask(weight.abs()))
    sides = {"dense": lambda: x @ weight.T, "2:4, unpacked": lambda: packed.matmul(x)}
    for share in (0.5, 0.9):
        sparse = to_csr(weight * (torch.rand(weight.shape, generator=g) >= share))
        sides[f"CSR, {share:.0%} zeros"] = lambda sparse=sparse: sparse @ x.T
    return sides


@torch.no_grad()
def run() -> list[dict]:
    """Rows for `course bench pruning`."""
    torch.set_num_threads(2)
    g = torch.Generator().manual_seed(0)
    models, rows = cut_models(), []
    tasks = {
        "prompt of 512": (torch.randint(4096, (1, 512), generator=g), True),
        "batch of 4 x 256": (torch.randint(4096, (4, 256), generator=g), False),
    }
    for task, (ids, last) in tasks.items():
        sides = {n: partial(m, ids, last_only=last) for n, m in models.items()}
        times = in_turns(sides, ROUNDS, lambda: None)
        for name in list(models)[1:]:
            rate = ids.numel() / times[name], ids.numel() / times["uncut"]
            rows.append(row(f"{task}, tokens/s: {name}", *rate, 1.6))
    times = in_turns(matrix_sides(), ROUNDS, lambda: None)
    for name in list(times)[1:]:
        rate = 512 / times[name], 512 / times["dense"]
        rows.append(row(f"one matrix, tokens/s: {name}, dense", *rate, None))
    return rows
