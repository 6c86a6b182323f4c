"""The functions that chapter 16 asks for: what must hold of each, and that the engine uses them."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from course_utils.data.tokenizer import course_tokenizer
from course_utils.models import DecoderLM, ModelConfig
from course_utils.scheduling import SchedulerConfig, block_keys, release_blocks, share_budget
from course_utils.serving import Engine, SamplingParams
from course_utils.serving.paged_cache import slot_numbers
from course_utils.serving.text import held_back

COUNTS = st.lists(st.integers(1, 40), max_size=6)


@given(COUNTS, COUNTS, st.integers(1, 60), st.integers(1, 8), st.none() | st.integers(1, 20))
def test_a_budget_is_kept_used_up_and_given_in_order(running, waiting, budget, seats, chunk):
    counts = share_budget(running, waiting, budget, seats, chunk)
    left = [*running, *waiting]
    wanted = [min(tokens, chunk or tokens) for tokens in left]
    wanted[max(len(running), seats) :] = [0] * (len(left) - max(len(running), seats))
    assert len(counts) == len(left) and sum(counts) == min(budget, sum(wanted))
    first = next((n for n, count in enumerate(counts) if count < wanted[n]), len(left))
    assert counts[:first] == wanted[:first] and not any(counts[first + 1 :])


@given(st.permutations(range(7)), st.integers(1, 5), st.data())
def test_slots_are_ones_own_and_in_the_order_of_the_text(table, size, data):
    tokens = data.draw(st.integers(1, size * len(table)))
    slots = slot_numbers(table, tokens, size).tolist()
    assert len(set(slots)) == len(slots) == tokens
    assert [slot // size for slot in slots] == [table[t // size] for t in range(tokens)]
    assert [slot % size for slot in slots] == [t % size for t in range(tokens)]


@given(st.text("ab", max_size=8), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_what_is_held_back_is_the_longest_beginning(text, stops):
    ends = [n for n in range(1, len(text) + 1) for s in stops if s != text[-n:] == s[:n]]
    assert held_back(text, stops) == max(ends, default=0)


def test_the_engine_runs_the_functions_that_it_is_given():
    calls = dict.fromkeys(("keys", "share", "release", "slots", "hold"), 0)

    def counted(name, function):
        def call(*args):
            calls[name] += 1
            return function(*args)

        return call

    functions = (block_keys, share_budget, release_blocks, slot_numbers, held_back)
    parts = {n: counted(n, f) for n, f in zip(calls, functions, strict=True)}
    tokenizer = course_tokenizer()
    config = ModelConfig(tokenizer.vocab_size, 8, 8, 1, 2, 1, head_dim=4)
    model = DecoderLM(config).eval()
    engine = Engine(model, SchedulerConfig(8, 4), tokenizer, **parts)
    made = engine.add([1, 2, 3, 4, 5], SamplingParams(3, stop=("###",)))
    engine.run()
    assert all(calls.values()), calls
    with torch.no_grad():
        assert made.new_ids[0] == int(model(torch.tensor([[1, 2, 3, 4, 5]]))[0, -1].argmax())
