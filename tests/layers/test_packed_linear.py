"""Packed linear maps: the same numbers from another layout."""

import copy

import pytest
import torch

from course_utils.layers import Linear, PackedLinear, pack_weights
from course_utils.models import DecoderLM, ModelConfig

SIZES = {"vocab_size": 50, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2}


def model(**options) -> DecoderLM:
    config = ModelConfig(
        **SIZES, num_attention_heads=4, num_key_value_heads=2, head_dim=6, **options
    )
    return DecoderLM(config, seed=0).eval()


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 33])
@pytest.mark.parametrize("bias", [False, True])
def test_products_are_those_of_the_layer(rows, bias):
    torch.manual_seed(rows)
    plain = Linear(30, 17, bias=bias)
    x_BTI = torch.randn(2, rows, 30)
    with torch.no_grad():
        torch.testing.assert_close(PackedLinear(plain)(x_BTI), plain(x_BTI))
        torch.testing.assert_close(PackedLinear(plain)(x_BTI[0]), plain(x_BTI[0]))


def test_the_weight_can_be_read_again():
    plain = Linear(30, 17)
    packed = PackedLinear(plain)
    assert torch.equal(packed.weight, plain.weight)
    assert (packed.in_features, packed.out_features) == (30, 17)


@pytest.mark.parametrize("tied", [False, True])
def test_a_packed_model_gives_the_same_logits_and_shares_nothing_it_needs(tied):
    plain = model(tie_word_embeddings=tied)
    packed = pack_weights(copy.deepcopy(plain))
    ids_BT = torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(packed(ids_BT), plain(ids_BT))
    kinds = [type(part) for part in packed.modules()]
    assert kinds.count(PackedLinear) == 2 * 7 + 1 and Linear not in kinds
    assert isinstance(packed.model.embed_tokens, torch.nn.Embedding)


def test_what_it_is_not_built_for_stays_as_it_is():
    double = pack_weights(model().double())
    assert not any(isinstance(part, PackedLinear) for part in double.modules())
    apart = pack_weights(model(), apart=("lm_head",))
    assert type(apart.lm_head) is Linear
