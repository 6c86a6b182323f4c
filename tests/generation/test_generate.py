"""Generation from the cache equals generation without one, batched, padded and stopped."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.data.tokenizer import course_tokenizer
from course_utils.generation import answer, generate, generate_greedy, stream
from course_utils.models import DecoderLM, ModelConfig
from course_utils.models.pretrained import Pretrained

some = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31)
VOCABULARY, CONTEXT = 23, 24


def tiny(seed: int = 0) -> DecoderLM:
    """A decoder in float64 with large weights, so that its text is not one token repeated."""
    config = ModelConfig(VOCABULARY, 8, 12, 2, 4, 2, 4, CONTEXT, tie_word_embeddings=False)
    model = DecoderLM(config).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return model


def random_ids(seed: int, batch: int, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (batch, length), generator=generator)


@torch.no_grad()
def without_cache(model: DecoderLM, ids: torch.Tensor, new_tokens: int) -> torch.Tensor:
    whole = ids
    for _ in range(new_tokens):
        whole = torch.cat([whole, model(whole)[:, -1:].argmax(-1)], dim=1)
    return whole[:, ids.shape[1] :]


@some
@given(seeds, st.integers(1, 3), st.integers(1, 8), st.integers(1, 12))
def test_greedy_equals_greedy_without_a_cache(seed, batch, length, new_tokens):
    model, ids = tiny(seed), random_ids(seed, batch, length)
    expected = without_cache(model, ids, new_tokens)
    assert torch.equal(generate(model, ids, new_tokens), expected)
    assert torch.equal(generate_greedy(model, ids[0], new_tokens), expected[0])


def test_the_sample_models_do_not_repeat_one_token():
    kinds = [
        len(set(generate(tiny(seed), random_ids(seed, 1, 4), 12)[0].tolist())) for seed in range(8)
    ]
    assert max(kinds) > 4


@some
@given(
    seeds,
    st.lists(st.integers(1, 8), min_size=2, max_size=4),
    st.sampled_from([{}, {"temperature": 0.7}, {"temperature": 1.3, "top_p": 0.8}]),
)
def test_a_left_padded_batch_equals_each_prompt_alone(seed, lengths, options):
    model, longest = tiny(seed), max(lengths)
    ids = random_ids(seed, len(lengths), longest)
    mask = torch.tensor([[0] * (longest - n) + [1] * n for n in lengths])
    together = generate(model, ids, 6, attention_mask=mask)
    for row, length in enumerate(lengths):
        alone = generate(model, ids[row : row + 1, -length:], 6)
        assert torch.equal(together[row], alone[0])
    drawn = [generate(model, ids, 6, attention_mask=mask, seed=5, **options) for _ in range(2)]
    assert torch.equal(*drawn)


def test_seeds_reproduce_and_differ():
    model, ids = tiny(), random_ids(0, 2, 4)
    options = {"temperature": 1.0, "top_p": 0.95}
    runs = {seed: generate(model, ids, 10, seed=seed, **options) for seed in (0, 1)}
    torch.manual_seed(99)  # the global generator has no part in it
    for seed, run in runs.items():
        assert torch.equal(generate(model, ids, 10, seed=seed, **options), run)
    assert not torch.equal(runs[0], runs[1])


def test_the_global_generator_is_left_alone():
    model = tiny()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    generate(model, random_ids(0, 1, 4), 5, temperature=1.0, seed=3)
    assert torch.equal(torch.rand(3), expected)


def test_passes_through_the_model_are_counted(monkeypatch):
    model, passes = tiny(), []
    real = DecoderLM.forward
    monkeypatch.setattr(
        DecoderLM,
        "forward",
        lambda self, ids, *a, **k: passes.append(ids.numel()) or real(self, ids, *a, **k),
    )
    generate(model, random_ids(0, 1, 6), 5)
    assert passes == [6, 1, 1, 1, 1]
    passes.clear()
    generate_greedy(model, random_ids(0, 1, 6)[0], 5)
    assert passes == [6, 1, 1, 1, 1]


def scripted(rows: list[list[int]]) -> DecoderLM:
    """A model that says these ids, one column a step."""
    model, step = tiny(), iter(range(99))

    def forward(ids, cache, mask=None, last_only=False):
        now = next(step)
        logits = torch.zeros(len(rows), 1, VOCABULARY)
        for number, row in enumerate(rows):
            logits[number, 0, row[now]] = 1
        return logits

    model.forward = forward
    return model


def test_a_stopped_sequence_repeats_its_stop_and_all_stopped_ends_it():
    model = scripted([[5, 9, 1, 2, 3], [6, 7, 4, 8, 8]])
    got = generate(model, random_ids(0, 2, 3), 5, stop_ids=(9, 4))
    assert got.tolist() == [[5, 9, 9], [6, 7, 4]]


def test_stop_ids_inside_the_prompt_stop_nothing():
    model = scripted([[5, 6, 7]])
    assert generate(model, torch.tensor([[9, 9]]), 3, stop_ids=(9,)).tolist() == [[5, 6, 7]]


def test_without_stop_ids_all_are_made():
    assert generate(scripted([[5, 9, 9, 9]]), torch.tensor([[1]]), 4).tolist() == [[5, 9, 9, 9]]


def test_the_stream_yields_as_it_goes():
    flow = stream(tiny(), random_ids(0, 2, 3), 4)
    assert [next(flow).shape for _ in range(2)] == [(2,), (2,)]
    rest = torch.stack(list(flow), dim=1)
    assert torch.equal(rest, generate(tiny(), random_ids(0, 2, 3), 4)[:, 2:])


def test_the_context_may_be_filled_to_its_end():
    ids = random_ids(0, 1, CONTEXT - 3)
    assert generate(tiny(), ids, 3).shape == (1, 3)
    with pytest.raises(ValueError, match=r"21 tokens and 4 new ones exceed the context of 24"):
        generate(tiny(), ids, 4)


@pytest.mark.parametrize("count", [0, -1])
def test_no_new_tokens(count):
    with pytest.raises(ValueError, match=f"new_tokens is {count}: ask for at least 1"):
        generate(tiny(), random_ids(0, 1, 3), count)


@pytest.mark.parametrize("shape", [(0, 3), (1, 0), (3,)])
def test_empty_or_misshapen_prompts(shape):
    with pytest.raises(ValueError, match=r"the prompt has shape .*expected \(batch, tokens\)"):
        generate(tiny(), torch.zeros(shape, dtype=torch.long), 2)


def test_a_prompt_padded_on_the_right():
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    with pytest.raises(ValueError, match="pad prompts on the left"):
        generate(tiny(), random_ids(0, 2, 3), 2, attention_mask=mask)


def test_a_foreign_id_in_the_prompt():
    with pytest.raises(IndexError, match=f"token id {VOCABULARY} is out of range"):
        generate(tiny(), torch.tensor([[1, VOCABULARY]]), 2)


def test_a_mask_of_another_shape():
    with pytest.raises(ValueError, match="attention_mask"):
        generate(tiny(), random_ids(0, 2, 3), 2, attention_mask=torch.ones(2, 2))


def speaker(text: str) -> Pretrained:
    """A chat model that says `text` and its end token, whatever it is asked."""
    tokenizer = course_tokenizer()
    ids = iter([*tokenizer.encode(text), tokenizer.end_id])
    model = DecoderLM(ModelConfig(tokenizer.vocab_size, 8, 12, 1, 4, 2, 4, 512))

    def forward(prompt, cache, mask=None, last_only=False):
        logits = torch.zeros(1, 1, tokenizer.vocab_size)
        logits[0, 0, next(ids)] = 1
        return logits

    model.forward = forward
    return Pretrained(model, tokenizer, (tokenizer.end_id,))


def test_an_answer_comes_in_pieces_of_whole_characters():
    text = "Paris, 巴黎, é and 🙂."
    pieces = list(answer(speaker(text), "What is the capital of France?"))
    assert "".join(pieces) == text
    assert len(pieces) > 5
    assert not any("\ufffd" in piece for piece in pieces)


def test_an_answer_to_no_question():
    with pytest.raises(ValueError, match="the question is empty"):
        next(answer(speaker("x"), " \n"))


def test_a_question_longer_than_the_context():
    with pytest.raises(ValueError, match="exceed the context of 512"):
        next(answer(speaker("x"), "why " * 600))
