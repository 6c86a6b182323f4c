"""Three cuts, healed in four ways at equal tokens and at equal compute (chapter 12).

`python -m course_utils.records.pruning [--devices cuda:0 cuda:1] [--jobs 16]` cuts the shipped
dense model to half of its parameters, by depth (3 of 8 layers, by block influence) and by width (3
of 6 heads, 168 of 512 channels), and the shipped MoE to 8 of its 16 experts (by output change).
Each is trained 600 batches of 8 x 256 tokens with the uncut model as teacher; on data alone, as
many batches; on data alone, as many as cost the same compute; and a model of the same shape from
random weights, the same compute. Parts are judged on 4 x 256 training tokens.

The learning rate of each cut and way is the best of three on the validation split with seed 0;
results are those on the test split. Seeds 0, 1, 2 choose the batches (and the random weights).
Routing biases stay as they are. Writes c12_healing.csv. Two minutes on two GPUs, hours on a laptop.
"""

import argparse
from functools import cache

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
RATES = (5e-4, 1.5e-3, 4e-3)
STEPS, BATCH, LENGTH = 600, 8, 256
LAYERS, GROUPS, CHANNELS, EXPERTS = 3, 1, 168, 8
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


def bits(model: DecoderLM, split: str, device: str) -> dict[str, float]:
    """Bits per byte by domain and of all."""
    bytes_V = course_tokenizer().token_bytes()
    given = {"split": split, "windows": 32, "device": device}
    results = evaluate(model, prepared_corpus(), bytes_V, **given)
    return {name: round(result.bits_per_byte, 5) for name, result in results.items()}


def run(cut: str, way: str, seed: int, rate: float, device: str, steps: int = STEPS) -> dict:
    """Cut, train in one way, and measure before and after."""
    torch.set_num_threads(1 if device != "cpu" else torch.get_num_threads())
    whole, model = base(cut, device), pruned(cut, device)
    before = bits(model, "test", device)["all"]
    configs = model.config.to_dict(), whole.config.to_dict()
    teacher = configs[1] if way == DISTILLED else None
    if way in (COMPUTE, SCRATCH):
        steps = steps_at_equal_compute(steps, *configs, LENGTH)
    if way == SCRATCH:
        on_gpu = {"dispatch": experts_dense} if device != "cpu" and model.config.moe else {}
        model = DecoderLM(model.config, seed=seed, **on_gpu).to(device)
    config = TrainingConfig(steps, BATCH, LENGTH, rate, max(1, steps // 20), seed=seed)
    stream = as_ids(prepared_corpus().stream("train"))
    if way == DISTILLED:
        heal(model, whole, stream, config, progress=False)
    else:
        train(model, stream, config, progress=False)
    after = bits(model, "test", device)
    row = {"cut": cut, "way": way, "seed": seed, "parameters": model.count_parameters()}
    row |= {
        "tokens": config.tokens,
        "flops": config.tokens * healing_flops(configs[0], teacher, LENGTH),
    }
    row |= {"learning_rate": rate, "validation_bits": bits(model, "validation", device)["all"]}
    row |= {
        "bits_whole": bits(whole, "test", device)["all"],
        "bits_before": "" if way == SCRATCH else before,
    }
    row |= {"bits_per_byte": after["all"]}
    row |= {f"{name}_bits": after[name] for name in DOMAINS}
    return row | {"code": code_hash(HEALING_CODE), "corpus": prepared_corpus().fingerprint()}


def rows(devices: list[str], jobs: int, steps: int = STEPS) -> list[dict]:
    """Seed 0 at every rate; then each cut and way at its best rate with the other seeds."""
    sweep = [(c, w, 0, rate) for c in CUTS for w in WAYS for rate in RATES]
    tried = run_grid(run, _placed(sweep, devices, steps), jobs)
    best = {}
    for row in sorted(tried, key=lambda row: -row["validation_bits"]):
        best[row["cut"], row["way"]] = row
    rest = [(*key, seed, row["learning_rate"]) for key, row in best.items() for seed in (1, 2)]
    found = [*best.values(), *run_grid(run, _placed(rest, devices, steps), jobs)]
    order = [(c, w, seed) for c in CUTS for w in WAYS for seed in (0, 1, 2)]
    return sorted(found, key=lambda row: order.index(tuple(row[key] for key in KEYS)))


def _placed(grid: list[tuple], devices: list[str], steps: int) -> list[tuple]:
    return [(*place, devices[n % len(devices)], steps) for n, place in enumerate(grid)]


def sample() -> dict:
    """One row, on the CPU: the cut in width on data alone, seed 0, at the recorded rate."""
    from course_utils.records.recorded import load_record

    (rate,) = {
        row["learning_rate"]
        for row in load_record(RECORD).rows
        if (row["cut"], row["way"]) == ("width", TOKENS)
    }
    return run("width", TOKENS, 0, rate, "cpu")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", nargs="+", default=["cpu"])
    parser.add_argument("--jobs", type=int, default=1, help="models trained at the same time")
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    print(save_record(RECORD, rows(given.devices, given.jobs, given.steps)))
