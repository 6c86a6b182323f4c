"""The mock against the real engine: one policy, two clocks; and what it says."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.data.tokenizer import course_tokenizer
from course_utils.models import DecoderLM, ModelConfig
from course_utils.scheduling import SchedulerConfig
from course_utils.serving import Engine, MockBackend, MockEngine, SamplingParams
from course_utils.serving.templates import Turn
from course_utils.simulation.costs import StepCost, work_of

PLAIN = SamplingParams(6)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.integers(1, 20), st.integers(1, 8)), min_size=1, max_size=6
    ),
    st.integers(3, 12),
    st.integers(1, 4),
    st.integers(2, 30),
)
def test_steps_are_those_of_the_engine(work, blocks, size, budget):
    """The same requests at the same steps: each gets a token in the same steps, from either."""
    config = SchedulerConfig(blocks, size, budget, max_requests=3, prefix_cache=False)
    model = DecoderLM(ModelConfig(4096, 8, 8, 1, 1, 1, head_dim=8), seed=0).eval()
    work = [one for one in work if one[1] + one[2] <= blocks * size]
    logs = []
    for engine in (Engine(model, config), MockEngine(config=config, speed=0)):
        made, log, waiting = {}, [], list(enumerate(work))
        for step in range(400):
            for number, (start, prompt, new) in list(waiting):
                if start <= step:
                    ids = [1 + number] * prompt
                    made[engine.add(ids, SamplingParams(new))] = number
                    waiting.remove((number, (start, prompt, new)))
            if not engine.live and not waiting:
                break
            log.append(sorted(made[update.generation] for update in engine.step()))
        logs.append(log)
    assert logs[0] == logs[1]
    assert sum(map(len, logs[0])) == sum(new for _, _, new in work)


def test_steps_take_what_the_cost_model_says():
    cost, seen = StepCost(base=0.02, per_token=0.001), []
    engine = MockEngine(cost, speed=2.0)
    engine._wait = seen.append  # the wait itself is the clock's
    made = engine.add([5] * 40, PLAIN)
    before = engine.scheduler.plan
    plans = []

    def planned():
        plans.append(before())
        return plans[-1]

    engine.scheduler.plan = planned
    engine.run()
    assert made.finish_reason == "length" and len(made.new_ids) == 6
    assert seen == [pytest.approx(cost.seconds(work_of(plan))) for plan in plans]
    assert seen[0] == pytest.approx(0.06) and seen[1] == pytest.approx(0.021)


def test_the_clock_never_runs_ahead_of_the_model():
    engine = MockEngine(StepCost(base=0.01), speed=0.5)
    engine.add([5] * 4, PLAIN)
    began = time.monotonic()
    engine.run()
    assert time.monotonic() - began >= 0.99 * 6 * 0.02 - 0.01  # later on a busy machine
    with pytest.raises(ValueError, match="speed is -1"):
        MockEngine(speed=-1)


def text_of(prompt: str, params: SamplingParams = PLAIN, **options) -> str:
    engine = MockEngine(speed=0, **options)
    made = engine.add(course_tokenizer().encode(prompt), params)
    engine.run()
    return made.text.text


def test_words_depend_on_prompt_and_seeds_alone():
    hot = SamplingParams(30, temperature=1.0, seed=1)
    assert text_of("And", hot) == text_of("And", hot) != text_of("But", hot)
    assert text_of("And", hot) != text_of("And", SamplingParams(30, temperature=1.0, seed=2))
    assert text_of("And", SamplingParams(30)) == text_of("And", SamplingParams(30, seed=2))
    assert text_of("And", hot) != text_of("And", hot, seed=1)


def test_it_ends_by_itself_unless_ends_are_ignored():
    end = course_tokenizer().end_id
    engine = MockEngine(speed=0)
    made = [engine.add([7], SamplingParams(400, stop_ids=ids)) for ids in ((end,), ())]
    engine.run()
    assert [one.finish_reason for one in made] == ["stop", "length"]
    assert made[0].new_ids[-1] == end and len(made[1].new_ids) == 400
    assert engine.scheduler.pool.used == 0


def test_it_asks_for_a_tool_when_a_word_of_its_name_was_said():
    choose = MockBackend(speed=0).choose_tool
    names = ["get_time", "get_weather"]
    assert choose([Turn("user", "The weather, please")], names) == "get_weather"
    assert choose([Turn("user", "Good morning")], names) is None
    assert choose([Turn("user", "weather"), Turn("tool", "rain")], names) is None


def test_prompts_that_are_none_are_refused():
    with pytest.raises(ValueError, match="at least one id"):
        MockEngine().add([], PLAIN)
