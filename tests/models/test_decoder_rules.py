"""What every decoder must hold, whatever its size: causality, the cache, padding, its errors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.accounting.ledger import dense_parameters
from course_utils.attention import grouped_query_attention
from course_utils.layers import rms_norm
from course_utils.models import DecoderLM, ModelConfig

some = settings(max_examples=30, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31)
VOCABULARY, CONTEXT = 19, 16


def tiny(seed: int = 0, **changes) -> DecoderLM:
    """A decoder in float64 whose weights, norms included, are large enough to matter."""
    values = dict(
        vocab_size=VOCABULARY,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
        max_position_embeddings=CONTEXT,
    )
    model = DecoderLM(ModelConfig(**values | changes)).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(1 + 0.3 * noise if weight.dim() == 1 else 0.4 * noise)
    return model


def random_ids(seed: int, batch: int, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (batch, length), generator=generator)


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@st.composite
def splits(draw, length: int) -> list[int]:
    """Sizes >= 1 that add up to `length`."""
    cuts = sorted(draw(st.sets(st.integers(1, max(1, length - 1)))) & set(range(1, length)))
    return [b - a for a, b in zip([0, *cuts], [*cuts, length], strict=True)]


shapes = st.tuples(seeds, st.booleans(), st.integers(1, 3), st.integers(2, 12))


@some
@given(shapes, st.data())
@torch.no_grad()
def test_a_later_token_never_changes_an_earlier_logit(shape, data):
    seed, qk_norm, batch, length = shape
    model, ids = tiny(seed, use_qk_norm=qk_norm), random_ids(seed, batch, length)
    place = data.draw(st.integers(1, length - 1))
    other = ids.clone()
    other[:, place:] = (ids[:, place:] + data.draw(st.integers(1, VOCABULARY - 1))) % VOCABULARY
    before, after = model(ids), model(other)
    close(after[:, :place], before[:, :place])
    assert not torch.allclose(after[:, place], before[:, place])


@some
@given(shapes, st.data())
@torch.no_grad()
def test_any_split_into_cached_steps_gives_the_same_logits(shape, data):
    seed, qk_norm, batch, length = shape
    model, ids = tiny(seed, use_qk_norm=qk_norm), random_ids(seed, batch, length)
    whole = model(ids)
    cache = model.new_cache(batch)
    parts = [model(part, cache) for part in ids.split(data.draw(splits(length)), dim=1)]
    assert cache.length == length
    close(torch.cat(parts, dim=1), whole)


@some
@given(shapes, st.sampled_from(["left", "right"]), st.data())
@torch.no_grad()
def test_padding_changes_nothing_for_the_real_tokens(shape, side, data):
    seed, qk_norm, batch, length = shape
    model, ids = tiny(seed, use_qk_norm=qk_norm), random_ids(seed, batch, length)
    padding = data.draw(st.integers(1, CONTEXT - length))
    filler = random_ids(seed + 1, batch, padding)
    ones, zeros = torch.ones_like(ids), torch.zeros_like(filler)
    order = slice(None, None, -1 if side == "left" else 1)
    padded = torch.cat([ids, filler][order], dim=1)
    mask = torch.cat([ones, zeros][order], dim=1)
    real = slice(padding, None) if side == "left" else slice(length)
    whole = model(padded, attention_mask=mask)
    assert whole.isfinite().all()
    close(whole[:, real], model(ids))

    cache, done, parts = model.new_cache(batch), 0, []
    for part in padded.split(data.draw(splits(length + padding)), dim=1):
        done += part.shape[1]
        parts.append(model(part, cache, mask[:, :done]))
    close(torch.cat(parts, dim=1)[:, real], model(ids))


@some
@given(seeds, st.lists(st.integers(1, 8), min_size=2, max_size=4))
@torch.no_grad()
def test_a_padded_batch_of_different_lengths_is_each_alone(seed, lengths):
    model, longest = tiny(seed), max(lengths)
    ids = random_ids(seed, len(lengths), longest)
    mask = torch.tensor([[0] * (longest - n) + [1] * n for n in lengths])
    logits = model(ids, attention_mask=mask)
    for row, length in enumerate(lengths):
        close(logits[row, -length:], model(ids[row : row + 1, -length:])[0])


@torch.no_grad()
def test_sequences_of_a_batch_do_not_see_each_other():
    model, ids = tiny(), random_ids(0, 2, 6)
    other = torch.stack([ids[0], (ids[1] + 1) % VOCABULARY])
    assert torch.equal(model(ids)[0], model(other)[0])


@torch.no_grad()
def test_boolean_and_full_masks_are_as_good_as_numbers():
    model, ids = tiny(), random_ids(0, 2, 6)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    assert torch.equal(model(ids, attention_mask=mask), model(ids, attention_mask=mask.bool()))
    assert torch.equal(model(ids, attention_mask=torch.ones_like(ids)), model(ids))


@some
@given(shapes)
@torch.no_grad()
def test_last_only_is_the_last_position(shape):
    seed, qk_norm, batch, length = shape
    model, ids = tiny(seed, use_qk_norm=qk_norm), random_ids(seed, batch, length)
    last = model(ids, last_only=True)
    assert last.shape == (batch, 1, VOCABULARY)
    close(last, model(ids)[:, -1:])


@torch.no_grad()
def test_explicit_attention_in_place_of_the_fused_one():
    model = tiny()
    explicit = DecoderLM(model.config, attend=grouped_query_attention).double()
    explicit.load_state_dict(model.state_dict())
    ids, mask = random_ids(0, 2, 9), torch.tensor([[0] * 3 + [1] * 6, [1] * 9])
    close(explicit(ids), model(ids))
    close(explicit(ids, attention_mask=mask)[0, 3:], model(ids, attention_mask=mask)[0, 3:])


def test_every_norm_is_the_one_that_was_given():
    calls = []

    def counted(x, weight, eps):
        calls.append(weight.shape[0])
        return rms_norm(x, weight, eps)

    DecoderLM(tiny().config, norm=counted)(random_ids(0, 1, 3))
    assert sorted(calls) == [4] * 4 + [8] * 5  # q and k of 2 layers; 2 a layer and the last


@st.composite
def configs(draw) -> ModelConfig:
    size = st.integers(1, 9)
    groups = draw(st.integers(1, 3))
    return ModelConfig(
        vocab_size=draw(size),
        hidden_size=draw(size),
        intermediate_size=draw(size),
        num_hidden_layers=draw(st.integers(1, 4)),
        num_attention_heads=groups * draw(st.integers(1, 3)),
        num_key_value_heads=groups,
        head_dim=2 * draw(st.integers(1, 4)),
        tie_word_embeddings=draw(st.booleans()),
        use_qk_norm=draw(st.booleans()),
    )


@some
@given(configs())
def test_parameters_counted_from_the_config_alone(config):
    model, parts = DecoderLM(config), dense_parameters(config.to_dict())
    assert sum(parts.values()) == model.count_parameters()
    tables = parts["embedding"] + parts["head"]
    assert model.count_parameters(embedding=False) == sum(parts.values()) - tables
    assert model.count_parameters() == sum(
        {w.data_ptr(): w.numel() for w in model.state_dict().values()}.values()
    )


def test_the_seed_decides_the_weights():
    config = tiny().config
    one, same, other = (
        DecoderLM(config, seed=1),
        DecoderLM(config, seed=1),
        DecoderLM(config, seed=2),
    )
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, same.state_dict()[name])
        assert torch.equal(weight, other.state_dict()[name]) == (weight.dim() == 1)


def test_weights_begin_normal_and_those_that_write_begin_smaller():
    config = ModelConfig(512, 128, 256, 8, 4, 4)
    for name, weight in DecoderLM(config).named_parameters():
        if weight.dim() == 1:
            assert weight.eq(1).all()
            continue
        smaller = 4 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1  # sqrt(2 * 8)
        assert float(weight.detach().std()) == pytest.approx(0.02 / smaller, rel=0.05)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_the_table_itself(tied):
    model = tiny(tie_word_embeddings=tied)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0), (3,), (), (1, 2, 3)])
def test_empty_or_misshapen_ids(shape):
    with pytest.raises(ValueError, match=r"ids have shape .*expected \(batch, tokens\)"):
        tiny()(torch.zeros(shape, dtype=torch.long))


def test_longer_than_the_context():
    model = tiny()
    assert model(random_ids(0, 1, CONTEXT)).shape[1] == CONTEXT
    with pytest.raises(ValueError, match=r"17 tokens are longer than the context of 16.*shorten"):
        model(random_ids(0, 1, CONTEXT + 1))
    cache = model.new_cache(1, 99)
    model(random_ids(0, 1, CONTEXT), cache)
    with pytest.raises(ValueError, match="17 tokens are longer than the context of 16"):
        model(random_ids(0, 1, 1), cache)


@pytest.mark.parametrize("wrong", [-1, VOCABULARY, 2**40])
def test_ids_out_of_range(wrong):
    ids = random_ids(0, 2, 4)
    ids[1, 2] = wrong
    with pytest.raises(IndexError, match=rf"token id {wrong} .*has {VOCABULARY} tokens.*tokenizer"):
        tiny()(ids)


@pytest.mark.parametrize("shape", [(2, 3), (1, 4), (4,), (2, 5), (2, 1, 4)])
def test_misshapen_mask(shape):
    with pytest.raises(ValueError, match=r"attention_mask has shape .*expected \(2, 4\)"):
        tiny()(random_ids(0, 2, 4), attention_mask=torch.ones(shape))


def test_the_mask_covers_the_cached_tokens_too():
    model, cache = tiny(), tiny().new_cache(2)
    model(random_ids(0, 2, 4), cache)
    with pytest.raises(ValueError, match=r"shape \(2, 1\): expected \(2, 5\)"):
        model(random_ids(0, 2, 1), cache, torch.ones(2, 1))


def test_cache_overflow_and_cache_of_another_batch():
    model = tiny()
    with pytest.raises(ValueError, match=r"4 tokens do not fit a cache of 3.*larger"):
        model(random_ids(0, 1, 4), model.new_cache(1, 3))
    with pytest.raises(ValueError, match=r"\(2, 2\) do not fit a cache made for \(3, 2\)"):
        model(random_ids(0, 2, 4), model.new_cache(3))


def test_a_refused_step_leaves_the_cache_as_it_was():
    model = tiny()
    cache, ids = model.new_cache(1, 4), random_ids(0, 1, 4)
    with torch.no_grad():
        model(ids[:, :3], cache)
        with pytest.raises(ValueError, match="do not fit"):
            model(random_ids(1, 1, 2), cache)
        assert cache.length == 3
        close(model(ids[:, 3:], cache), model(ids)[:, 3:])
