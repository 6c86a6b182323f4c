"""The closed formula of a layer of experts against the list of weights, and the built layer."""

from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.accounting.catalog import find
from course_utils.accounting.feed_forward import MixtureOfExperts
from course_utils.accounting.moe_layer import moe_layer_cost
from course_utils.moe import MoE, MoEConfig

SIZES = st.integers(1, 12)


def test_mixtral_by_hand():
    total, active, flops = moe_layer_cost(4096, 8, 2, 14336)
    expert = 3 * 4096 * 14336
    assert (total, active, flops) == (
        8 * expert + 8 * 4096,
        2 * expert + 8 * 4096,
        4 * expert + 16 * 4096,
    )
    config = find("Mixtral-8x7B").config
    spec = find("Mixtral-8x7B").spec
    everything = spec.count()
    beside = everything.total - config["num_hidden_layers"] * total
    assert beside == everything.activated - config["num_hidden_layers"] * active


@settings(deadline=None)
@given(SIZES, SIZES, SIZES, SIZES, st.integers(0, 3))
def test_equals_the_spec_and_the_layer(D, E, k, width, shared):
    k = min(k, E)
    total, active, flops = moe_layer_cost(D, E, k, width, shared)
    weights = MixtureOfExperts(E, k, width, shared * width).weights(D)
    assert total == sum(weight.total for weight in weights)
    assert active == sum(weight.activated for weight in weights)
    assert flops == 2 * sum(weight.activated for weight in weights if weight.product)
    layer = MoE(D, MoEConfig(E, k, width, n_shared_experts=shared))
    assert total == sum(weight.numel() for weight in layer.parameters())
