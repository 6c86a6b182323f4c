"""The log counts what the passes did, and a dry run takes the steps that the engine takes."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.models import DecoderLM, ModelConfig
from course_utils.scheduling import SchedulerConfig
from course_utils.serving import Engine, SamplingParams
from course_utils.serving.log import Log, Work, dry_run, padded_work, watch


@cache
def model() -> DecoderLM:
    config = ModelConfig(40, 8, 8, 1, 2, 1, head_dim=4, max_position_embeddings=64)
    return DecoderLM(config).eval()


def test_counts_and_places():
    log = Log(arrivals={2: 1})
    log.add([Work(0, "prefill", 5, True), Work(1, "prefill", 3)])
    log.add([Work(0, "decode", 1, True), Work(1, "preempted", 0)])
    log.add([Work(2, "prefill", 4, True)])
    log.add([Work(0, "decode", 1, True), Work(1, "prefill", 7, True)])
    assert (log.tokens(), log.tokens("decode"), log.tokens("prefill")) == (21, 2, 19)
    assert log.sizes() == [8, 1, 4, 8] and log.chosen(0) == [0, 1, 3]
    assert log.gaps(0) == [1, 12]
    assert log.stays() == [
        (0, 0, 1, "prefill"),
        (0, 1, 2, "decode"),
        (0, 2, 3, "waiting"),
        (0, 3, 4, "decode"),
        (1, 0, 1, "prefill"),
        (1, 1, 3, "preempted"),
        (1, 3, 4, "prefill"),
        (2, 1, 2, "waiting"),
        (2, 2, 3, "prefill"),
    ]
    assert log.seconds_to_first() == [log.ends[0], log.ends[3], log.ends[2]]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 6)), min_size=1, max_size=5),
    st.fixed_dictionaries(
        {
            "num_blocks": st.integers(9, 14),
            "block_size": st.integers(2, 4),
            "max_tokens": st.integers(1, 9),
            "max_requests": st.integers(1, 3),
        }
    ),
)
def test_a_dry_run_takes_the_engines_steps(sizes, options):
    config = SchedulerConfig(prefix_cache=False, **options)
    prompts = [list(range(length)) for length, _ in sizes]
    engine = Engine(model(), config)
    for prompt, (_, new) in zip(prompts, sizes, strict=True):
        engine.add(prompt, SamplingParams(new))
    log = watch(engine)
    engine.run()
    dry, scheduler = dry_run(config, prompts, [new for _, new in sizes])
    assert log.passes == dry.passes
    assert scheduler.pool.used == 0
    assert all(len(dry.chosen(number)) == new for number, (_, new) in enumerate(sizes))


def test_a_prompt_that_is_found_is_not_computed():
    prompts = [list(range(9)), list(range(9)), [5, *range(8)]]
    for prefix_cache, tokens in ((True, 9 + 1 + 9), (False, 27)):
        config = SchedulerConfig(20, 4, 64, 1, prefix_cache=prefix_cache)
        log, _ = dry_run(config, prompts, [2, 2, 2])
        assert (log.tokens("prefill"), log.tokens("decode")) == (tokens, 3)


def test_a_static_batch_pads_prompts_and_finished_rows():
    prompts, new = [[1] * 5, [2] * 2, [3] * 9], [3, 1, 9]
    first, second, third = (padded_work([0, 1], step, prompts, new) for step in range(3))
    assert [w.tokens for w in first] == [0, 3, 5, 2]
    assert [(w.request, w.kind) for w in second] == [(0, "decode"), (1, "padding")]
    assert third == second


def test_requests_come_when_they_are_said_to():
    config = SchedulerConfig(num_blocks=8, block_size=4)
    log, _ = dry_run(config, [[1] * 6, [2] * 3], [2, 2], [0, 4])
    assert log.stays()[-2:] == [(1, 4, 5, "prefill"), (1, 5, 6, "decode")]
    with pytest.raises(ValueError, match="the pool has 8"):
        dry_run(config, [[1] * 30], [9])
