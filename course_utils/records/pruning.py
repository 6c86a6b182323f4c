"""The dense model cut to half, healed and trained in other ways at equal compute (chapter 12).

`python -m course_utils.records.pruning` cuts the shipped dense model to half of its parameters by
width (3 of 6 heads, 168 of 512 channels), and trains it 80 batches of 4 x 128 tokens with the uncut
model as teacher; on data alone, as many batches as cost the same compute; and a model of that shape
from random weights, the same compute. One learning rate, 1.5e-3, for all; seeds 0, 1, 2 choose the
batches and the random weights. Parts are judged on 4 x 256 training tokens; results are those on 8
windows a domain of the test split. Writes c12_healing.csv; some ten minutes on one core.

`--full --devices cuda:0 cuda:1 --jobs 20` is the same with 600 batches of 8 x 256, cuts by depth
(3 of 8 layers) and of experts (8 of 16 of the MoE, by output change) as well, data alone at equal
tokens too, and the best of three rates on the validation split for each cut and way. Minutes on two
GPUs. Routing biases stay as they are.
"""

import argparse
from dataclasses import dataclass
from functools import cache, partial

import torch

from course_utils.data.batches import as_ids, draw_windows
from course_utils.data.texts import DOMAINS
from course_utils.data.tokenizer import course_tokenizer
from course_utils.models import DecoderLM, shipped
from course_utils.moe import experts_dense
from course_utils.pruning import (
    best_heads,
    channel_scores,
    expert_changes,
    head_scores,
    keep_best,
    layer_scores,
    prune_channels,
    prune_experts,
    prune_heads,
    prune_layers,
)
from course_utils.pruning.heal import heal, healing_flops, steps_at_equal_compute
from course_utils.records.recorded import EXPERT_CODE, code_hash, save_record
from course_utils.records.small_models import prepared_corpus, run_grid
from course_utils.training import TrainingConfig, evaluate, train

RECORD = "c12_healing"
KEYS = ("cut", "way", "seed")
TOLERANCE = {"bits_before": 0.01, "bits_per_byte": 0.03}
CUTS = {"depth": "dense", "width": "dense", "experts": "moe"}
DISTILLED, TOKENS, COMPUTE = "distilled", "data, same tokens", "data, same compute"
SCRATCH = "from scratch, same compute"
WAYS = (DISTILLED, TOKENS, COMPUTE, SCRATCH)
LAYERS, GROUPS, CHANNELS, EXPERTS = 3, 1, 168, 8


@dataclass(frozen=True)
class Scale:
    """How large the comparison is: cuts, ways, rates to try, batches, windows of a domain."""

    cuts: tuple[str, ...] = ("width",)
    ways: tuple[str, ...] = (DISTILLED, COMPUTE, SCRATCH)
    rates: tuple[float, ...] = (1.5e-3,)
    steps: int = 80
    batch: int = 4
    length: int = 128
    windows: int = 8


SMALL = Scale()
FULL = Scale(tuple(CUTS), WAYS, (5e-4, 1.5e-3, 4e-3), 600, 8, 256, 32)
PARTS = ("weights", "importance", "structured", "experts", "rebuild", "heal")
HEALING_CODE = (*EXPERT_CODE, *(f"pruning/{part}.py" for part in PARTS))
HEALING_CODE += ("distillation/losses.py", "distillation/loop.py")


def judging_ids() -> torch.Tensor:
    """The training tokens on which parts are judged, (4, 256)."""
    stream = as_ids(prepared_corpus().stream("train"))
    return draw_windows(stream, 4, 256, torch.Generator().manual_seed(0))


@cache
def base(cut: str, device: str = "cpu") -> DecoderLM:
    """The shipped model that the cut starts from."""
    on_gpu = {"dispatch": experts_dense} if device != "cpu" and CUTS[cut] == "moe" else {}
    return shipped(CUTS[cut], **on_gpu).to(device)


def pruned(cut: str, device: str = "cpu") -> DecoderLM:
    """One of `CUTS`, before any healing. The parts are chosen on the CPU: the same everywhere."""
    model, ids_BT = base(cut), judging_ids()
    if cut == "depth":
        smaller = prune_layers(model, keep_best(layer_scores(model, ids_BT), LAYERS))
    elif cut == "width":
        kv = model.config.num_key_value_heads
        each = model.config.num_attention_heads // kv
        heads = [best_heads(scores, kv, GROUPS, each) for scores in head_scores(model, ids_BT)]
        smaller = prune_heads(model, heads)
        channels = channel_scores(smaller, ids_BT)
        smaller = prune_channels(
            smaller, [{"mlp": keep_best(s["mlp"], CHANNELS)} for s in channels]
        )
    else:
        kept = [keep_best(scores, EXPERTS) for scores in expert_changes(model, ids_BT)]
        on_gpu = {"dispatch": experts_dense} if device != "cpu" else {}
        smaller = prune_experts(model, kept, **on_gpu)
    return smaller.to(device)


def bits(model: DecoderLM, split: str, device: str, windows: int = 32) -> dict[str, float]:
    """Bits per byte by domain and of all."""
    bytes_V = course_tokenizer().token_bytes()
    given = {"split": split, "windows": windows, "device": device}
    results = evaluate(model, prepared_corpus(), bytes_V, **given)
    return {name: round(result.bits_per_byte, 5) for name, result in results.items()}


def run(cut: str, way: str, seed: int, rate: float, device: str, scale: Scale = SMALL) -> dict:
    """Cut, train in one way, and measure before and after."""
    torch.set_num_threads(1 if device != "cpu" else torch.get_num_threads())
    whole, model = base(cut, device), pruned(cut, device)
    measured = partial(bits, device=device, windows=scale.windows)
    before = measured(model, "test")["all"]
    steps, length = scale.steps, scale.length
    configs = model.config.to_dict(), whole.config.to_dict()
    teacher = configs[1] if way == DISTILLED else None
    if way in (COMPUTE, SCRATCH):
        steps = steps_at_equal_compute(steps, *configs, length)
    if way == SCRATCH:
        on_gpu = {"dispatch": experts_dense} if device != "cpu" and model.config.moe else {}
        model = DecoderLM(model.config, seed=seed, **on_gpu).to(device)
    config = TrainingConfig(steps, scale.batch, length, rate, max(1, steps // 20), seed=seed)
    stream = as_ids(prepared_corpus().stream("train"))
    if way == DISTILLED:
        heal(model, whole, stream, config, progress=False)
    else:
        train(model, stream, config, progress=False)
    after = measured(model, "test")
    row = {"cut": cut, "way": way, "seed": seed, "parameters": model.count_parameters()}
    row |= {
        "tokens": config.tokens,
        "flops": config.tokens * healing_flops(configs[0], teacher, length),
    }
    row |= {"learning_rate": rate, "validation_bits": measured(model, "validation")["all"]}
    row |= {
        "bits_whole": measured(whole, "test")["all"],
        "bits_before": "" if way == SCRATCH else before,
    }
    row |= {"bits_per_byte": after["all"]}
    row |= {f"{name}_bits": after[name] for name in DOMAINS}
    return row | {"code": code_hash(HEALING_CODE), "corpus": prepared_corpus().fingerprint()}


def rows(devices: list[str], jobs: int, scale: Scale) -> list[dict]:
    """Seed 0 at every rate; then each cut and way at its best rate with the other seeds."""
    sweep = [(c, w, 0, rate) for c in scale.cuts for w in scale.ways for rate in scale.rates]
    tried = run_grid(run, _placed(sweep, devices, scale), jobs)
    best = {}
    for row in sorted(tried, key=lambda row: -row["validation_bits"]):
        best[row["cut"], row["way"]] = row
    rest = [(*key, seed, row["learning_rate"]) for key, row in best.items() for seed in (1, 2)]
    found = [*best.values(), *run_grid(run, _placed(rest, devices, scale), jobs)]
    order = [(c, w, seed) for c in scale.cuts for w in scale.ways for seed in (0, 1, 2)]
    return sorted(found, key=lambda row: order.index(tuple(row[key] for key in KEYS)))


def _placed(grid: list[tuple], devices: list[str], scale: Scale) -> list[tuple]:
    return [(*place, devices[n % len(devices)], scale) for n, place in enumerate(grid)]


def sample() -> dict:
    """One row, on the CPU: the cut in width, distilled, seed 0, at the small scale."""
    return run("width", DISTILLED, 0, SMALL.rates[0], "cpu")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", nargs="+", default=["cpu"])
    parser.add_argument("--jobs", type=int, default=1, help="models trained at the same time")
    parser.add_argument("--full", action="store_true", help="the large comparison, for GPUs")
    given = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    scale = FULL if given.full else SMALL
    print(save_record(RECORD, rows(given.devices, given.jobs, scale)))
