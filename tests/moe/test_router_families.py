"""Every family's router is that of `transformers`: experts, weights, gradients; mistakes are not."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from router_oracles import (
    ORACLES,
    D,
    E,
    KeepFloat64,
    T,
    agree,
    correction_bias,
    gradients,
    ours,
    theirs,
)
from torch import Tensor

from course_utils.moe import MoEConfig, Routing, route, rules

SEEDS = (0, 1, 2)


def compare(name: str, seed: int, dtype: torch.dtype, route: Callable = route) -> None:
    """Hold `route` to the oracle `name` in values and gradients."""
    router, config = ORACLES[name].build(seed)
    router.to(dtype)
    x_TD = torch.randn(T, D, dtype=dtype, requires_grad=True)
    ids_T = torch.randint(0, 40, (T,))
    found = ours(route, router, config, x_TD, ids_T)
    experts_TK, weights_TK = theirs(router, x_TD, ids_T)
    to = 1e-5 if dtype is torch.float32 else 1e-9
    scale = config.routed_scaling_factor
    agree(found.experts_TK, found.weights_TK / scale, experts_TK, weights_TK / scale, to)
    assert found.weights_TK.dtype is dtype
    mine = gradients(found.experts_TK, found.weights_TK, router, x_TD)
    other = gradients(experts_TK, weights_TK, router, x_TD)
    for a, b in zip(mine, other, strict=True):
        assert b.abs().max() > 1e-3, "nothing to compare"
        torch.testing.assert_close(a, b, atol=to * T * scale, rtol=to)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ORACLES)
def test_float32(name: str, seed: int) -> None:
    compare(name, seed, torch.float32)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ORACLES)
def test_float64(name: str, seed: int) -> None:
    with KeepFloat64():
        compare(name, seed, torch.float64)
