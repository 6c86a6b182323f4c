"""The recipes of chapter 15: every run once, rows that say how they were rounded, real caches."""

import torch

from course_utils.models import DecoderLM, ModelConfig
from course_utils.records import kv_quantization, load_record, qat, recorded
from course_utils.training import TrainingConfig

SIZES = {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def test_the_grid_has_every_run_once_and_deals_them_out():
    grid = qat.grid(["cuda:0", "cuda:1"])
    assert len(set(grid)) == len(grid) == 3 * 2 * (3 + 3 + 2)  # seeds, rates, weights of 3 models
    assert sum(run[4] == "cuda:0" for run in grid) == len(grid) / 2
    assert {run[3] for run in grid} == {0, 1, 2}
    short = qat.short_grid(["cpu"])
    assert len(short) == 3 * 3 * 2 and {run[5] for run in short} == {qat.SHORT_STEPS}


def test_a_run_in_32_bits_also_gives_the_rows_of_rounding_afterwards(monkeypatch):
    config = ModelConfig(4096, 64, num_key_value_heads=1, **(SIZES | {"intermediate_size": 64}))
    monkeypatch.setattr(qat, "start", lambda name, seed, device: DecoderLM(config, seed=seed))
    monkeypatch.setattr(qat, "recipe", lambda *given: TrainingConfig(1, batch=1, length=8))
    monkeypatch.setattr(qat, "WINDOWS", 1)
    rows = qat.run("dense", qat.FULL, 1e-3, 0, "cpu")
    assert [(row["weights"], row["rounded"]) for row in rows] == [
        ("32 bits", "never"),
        ("2 bits", "after"),
        ("ternary", "after"),
    ]
    assert len({row["test"] for row in rows}) == 3
    (during,) = qat.run("dense", "ternary", 1e-3, 0, "cpu")
    assert during["rounded"] == "during" and set(qat.KEYS) | set(qat.TOLERANCE) <= set(during)


def test_the_record_of_caches_is_complete():
    rows = load_record(kv_quantization.RECORD).rows
    choices = [("full", "full", 32.0), *((k, v, float(b)) for b, k, v in kv_quantization.CHOICES)]
    for model in ("course", "SmolLM2"):
        own = [row for row in rows if row["model"] == model]
        assert [(row["keys"], row["values"], row["bits"]) for row in own] == choices
        loss = {tuple(row[key] for key in kv_quantization.KEYS[1:]): row for row in own}
        full = own[0]["nats_per_token"]
        assert full < min(row["nats_per_token"] for row in own[1:])
        worse, better = (
            loss[2.0, keys, "token"]["nats_per_token"] for keys in ("token", "channel")
        )
        assert worse - full > 1.5 * (better - full)
    assert recorded.RECIPES["c15_kv_cache"] == kv_quantization.__name__


def test_a_model_reads_through_the_packed_cache():
    config = ModelConfig(50, 32, num_key_value_heads=1, **SIZES)
    model, ids = DecoderLM(config, seed=0), torch.arange(40)[None]
    with torch.no_grad():
        full, rounded = model(ids), kv_quantization.with_cache(model, 2, "channel", "token")(ids)
    assert full.shape == rounded.shape and not torch.equal(full[:, 31], rounded[:, 31])
