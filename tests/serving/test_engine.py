"""The engine against the model without any cache: same tokens, whatever the blocks and the company.

Everything in float64, where two ways of adding differ by less than any gap between two logits here.
"""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.attention import MLAConfig
from course_utils.generation.drafts import ModelDraft, MTPDraft, NgramDraft
from course_utils.generation.mtp import MTPModule
from course_utils.models import DecoderLM, ModelConfig
from course_utils.moe import MoEConfig
from course_utils.scheduling import SchedulerConfig
from course_utils.serving import Engine, SamplingParams

VOCABULARY = 11
PARTS = {
    "grouped": {},
    "latent": {"mla": MLAConfig(12, 8, 4, 8)},
    "experts": {"moe": MoEConfig(4, 2, 8)},
}


@cache
def model(kind: str = "grouped", seed: int = 0, layers: int = 2) -> DecoderLM:
    config = ModelConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        **PARTS[kind],
    )
    built = DecoderLM(config, seed=seed)
    with torch.no_grad():
        for weight in built.parameters():
            weight.mul_(8.0 if weight.dim() > 1 else 1.0)
    return built.double().eval()


@torch.no_grad()
def without_cache(target: DecoderLM, prompt: list[int], new: int) -> list[int]:
    """The likeliest ids, each from a pass over the whole text."""
    ids = list(prompt)
    for _ in range(new):
        ids.append(int(target(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


def serve(engine: Engine, work: list[tuple], **options) -> list:
    """Add (step of arrival, prompt, new tokens) at their steps and run to the end."""
    made, step = [], 0
    todo = sorted(enumerate(work), key=lambda pair: pair[1][0])
    found = {}
    while todo or engine.live:
        while todo and todo[0][1][0] <= step:
            number, (_, prompt, new) = todo.pop(0)
            made = engine.add(prompt, SamplingParams(max_tokens=new, **options))
            found[number] = made
        engine.step()
        pool = engine.scheduler.pool
        assert pool.free + pool.used + pool.cached == len(pool.blocks)
        step += 1
    assert engine.scheduler.pool.used == 0
    return [found[number] for number in range(len(work))]


PROMPTS = st.lists(st.integers(0, 2), min_size=1, max_size=14)
WORK = st.lists(st.tuples(st.integers(0, 8), PROMPTS, st.integers(1, 8)), min_size=1, max_size=5)
SIZES = st.fixed_dictionaries(
    {
        "block_size": st.integers(1, 5),
        "num_blocks": st.integers(5, 24),
        "max_tokens": st.integers(1, 12),
        "max_requests": st.integers(1, 4),
        "max_chunk": st.one_of(st.none(), st.integers(1, 5)),
        "prefix_cache": st.booleans(),
    }
)


@pytest.mark.parametrize("kind", PARTS)
@settings(max_examples=25, deadline=None)
@given(sizes=SIZES, work=WORK)
def test_tokens_are_those_of_the_model_without_a_cache(kind, sizes, work):
    room = sizes["block_size"] * sizes["num_blocks"]
    work = [one for one in work if len(one[1]) + one[2] <= room]
    engine = Engine(model(kind), SchedulerConfig(**sizes))
    for one, made in zip(work, serve(engine, work), strict=True):
        assert made.new_ids == without_cache(model(kind), one[1], one[2])
        assert made.finish_reason == "length"


def drafts(kind: str):
    if kind == "mtp":
        mtp = MTPModule(model().config, seed=3).double().eval()
        return lambda: MTPDraft(model(), mtp)
    if kind == "model":
        return lambda: ModelDraft(model(seed=1, layers=1))
    return lambda: NgramDraft(VOCABULARY)


@pytest.mark.parametrize("kind", ["ngram", "model", "mtp"])
@settings(max_examples=15, deadline=None)
@given(sizes=SIZES, work=WORK, k=st.integers(1, 4))
def test_drafts_do_not_change_greedy_tokens(kind, sizes, work, k):
    room = sizes["block_size"] * sizes["num_blocks"]
    work = [one for one in work if len(one[1]) + one[2] <= room]
    sizes["prefix_cache"] &= kind != "mtp"
    engine = Engine(model(), SchedulerConfig(**sizes), draft=drafts(kind), k=k)
    for one, made in zip(work, serve(engine, work), strict=True):
        assert made.new_ids == without_cache(model(), one[1], one[2])


def test_a_request_that_waits_for_its_turn_keeps_its_proposal():
    config = SchedulerConfig(num_blocks=20, block_size=4, max_tokens=1)
    engine = Engine(model(), config, draft=drafts("ngram"), k=1)
    work = [(0, [0], 4), (0, [0, 0], 2)]
    for one, made in zip(work, serve(engine, work), strict=True):
        assert made.new_ids == without_cache(model(), one[1], one[2])


def test_drafts_that_agree_save_steps():
    config = SchedulerConfig(num_blocks=20, block_size=4, prefix_cache=False)
    engine = Engine(model(), config, draft=lambda: ModelDraft(model()), k=3)
    (made,) = serve(engine, [(0, [1, 2], 12)])
    assert made.accepted == made.proposed == 8 and engine.steps == 4


def test_forced_preemption_in_the_middle_changes_nothing():
    config = SchedulerConfig(num_blocks=9, block_size=2, max_tokens=5)
    engine = Engine(model(), config)
    work = [(0, [1, 2, 0, 1], 8), (0, [2, 2, 1, 0, 1, 2, 0], 6), (1, [0, 0, 1], 7)]
    made = serve(engine, work)
    assert sum(one.request.preemptions for one in made) >= 2
    for (_, prompt, new), one in zip(work, made, strict=True):
        assert one.new_ids == without_cache(model(), prompt, new)


def test_a_prompt_that_is_cached_whole_and_block_aligned():
    engine = Engine(model(), SchedulerConfig(num_blocks=20, block_size=4))
    prompt = [1, 2, 0, 1, 2, 2, 1, 0]
    first, again = serve(engine, [(0, prompt, 5), (10, prompt, 5)])
    assert again.request.cached_tokens == 4  # the last block is computed: its logits are needed
    assert first.new_ids == again.new_ids == without_cache(model(), prompt, 5)


def test_equal_prompts_at_once_share_blocks_from_then_on():
    engine = Engine(model(), SchedulerConfig(num_blocks=20, block_size=4))
    prompt = [1, 2, 0, 1, 2, 2, 1, 0, 1]
    made = [engine.add(prompt, SamplingParams(max_tokens=6)) for _ in range(2)]
    engine.step()
    one, other = (generation.request.blocks for generation in made)
    assert one[:2] == other[:2] and one[2] != other[2]
    engine.run()
    assert made[0].new_ids == made[1].new_ids == without_cache(model(), prompt, 6)


def test_sampled_text_does_not_depend_on_company():
    params = [SamplingParams(8, temperature=1.0, top_k=7, seed=seed) for seed in range(4)]
    alone = []
    for one in params:
        engine = Engine(model(), SchedulerConfig(num_blocks=30, block_size=3))
        made = engine.add([1, 2, 0], one)
        engine.run()
        alone.append(made.new_ids)
    engine = Engine(model(), SchedulerConfig(num_blocks=30, block_size=3, max_tokens=4))
    made = [engine.add([1, 2, 0], one) for one in params]
    engine.run()
    assert [one.new_ids for one in made] == alone
    assert len({tuple(ids) for ids in alone}) > 1


def test_sampled_speculation_has_the_distribution_of_the_target():
    """All texts of two tokens, by enumeration of the target; many seeds, a bound of six sigma."""
    target, runs, new = model(), 1200, 2
    engine = Engine(
        target,
        SchedulerConfig(num_blocks=600, block_size=4, max_requests=100, prefix_cache=False),
        draft=lambda: ModelDraft(model(seed=1, layers=1)),
        k=2,
    )
    options = {"max_tokens": new + 1, "temperature": 1.5, "top_k": 3}
    made = [engine.add([1, 2, 0], SamplingParams(seed=seed, **options)) for seed in range(runs)]
    engine.run()
    assert 0 < sum(one.accepted for one in made) < sum(one.proposed for one in made)
    counts: dict[tuple, int] = {}
    for one in made:
        counts[tuple(one.new_ids[:new])] = counts.get(tuple(one.new_ids[:new]), 0) + 1
    with torch.no_grad():
        first = _top(target(torch.tensor([[1, 2, 0]]))[0, -1])
        for a, p in first.items():
            second = _top(target(torch.tensor([[1, 2, 0, a]]))[0, -1])
            for b, q in second.items():
                expected, found = p * q, counts.pop((a, b), 0) / runs
                assert abs(found - expected) < 6 * (expected * (1 - expected) / runs) ** 0.5
    assert not counts


def _top(logits_V: torch.Tensor) -> dict[int, float]:
    best = logits_V.topk(3)
    return dict(zip(best.indices.tolist(), (best.values / 1.5).softmax(-1).tolist(), strict=True))


def test_stop_ids_and_cancellation_end_a_request_and_free_its_blocks():
    engine = Engine(model(), SchedulerConfig(num_blocks=20, block_size=2, prefix_cache=False))
    text = without_cache(model(), [1, 2], 10)
    stopped = engine.add([1, 2], SamplingParams(10, stop_ids=(text[4],)))
    cancelled = engine.add([2, 1], SamplingParams(10))
    waiting = engine.add([2, 2], SamplingParams(10))
    engine.step()
    engine.cancel(cancelled)
    engine.cancel(waiting)
    engine.cancel(waiting)
    engine.run()
    end = text.index(text[4]) + 1
    assert (stopped.new_ids, stopped.finish_reason) == (text[:end], "stop")
    assert len(cancelled.new_ids) == 1 and cancelled.finish_reason == "cancelled"
    assert engine.scheduler.pool.free == 20


def test_logprobs_are_those_of_the_model():
    engine = Engine(model(), SchedulerConfig(num_blocks=20, block_size=2))
    made = engine.add([1, 2], SamplingParams(3, logprobs=2))
    engine.run()
    ids = [1, 2]
    for token, reported in zip(made.new_ids, made.logprobs, strict=True):
        with torch.no_grad():
            expected_V = model()(torch.tensor([ids]))[0, -1].log_softmax(-1)
        assert next(iter(reported)) == token and len(reported) == 2
        for number, value in reported.items():
            assert value == pytest.approx(float(expected_V[number]), abs=1e-9)
        ids.append(token)


def test_what_cannot_be_served_is_refused_by_name():
    engine = Engine(model(), SchedulerConfig(num_blocks=4, block_size=4))
    for prompt, options, words in (
        ([], {}, "at least one id"),
        ([99], {}, "model's vocabulary"),
        ([1] * 60, {"max_tokens": 9}, "exceed the context of 64"),
        ([1] * 10, {"max_tokens": 9}, "the pool has 4"),
        ([1], {"stop": ("x",)}, "stop texts need a tokenizer"),
    ):
        with pytest.raises(ValueError, match=words):
            engine.add(prompt, SamplingParams(**options))
    assert not engine.live
    windows = ModelConfig(
        VOCABULARY, 16, 24, 2, 4, 2, layer_types=("sliding_attention",) * 2, sliding_window=4
    )
    with pytest.raises(ValueError, match="layer 0 keeps a window"):
        Engine(DecoderLM(windows), SchedulerConfig(num_blocks=4))
    with pytest.raises(ValueError, match="prefix_cache=False"):
        Engine(model(), SchedulerConfig(num_blocks=4), draft=drafts("mtp"))
