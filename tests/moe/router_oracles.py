"""The routers of `transformers`, tiny and with random weights, and how to compare with them.

Several of them compute in 32 bits whatever the input is, so that in 64 bits they agree with ours
only to 32-bit rounding. `KeepFloat64` takes these conversions out, and nothing else: what is
compared to 1e-9 is the rule.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig

from course_utils.moe import MoEConfig, Routing
from course_utils.moe.families import moe_config

T, D, E, K = 96, 32, 16, 4
GROUPS = {"n_group": 4, "topk_group": 2}
V3 = {"n_routed_experts": E, "num_experts_per_tok": K, "routed_scaling_factor": 2.5}


@dataclass(frozen=True)
class Oracle:
    """A router class of `transformers`: where it is, its config, the scale and mean of its bias."""

    model_type: str
    router: str
    config: dict[str, Any] = field(default_factory=dict)
    bias_std: float = 0.0
    bias_mean: float = 0.0
    module: str = ""

    def build(self, seed: int) -> tuple[nn.Module, MoEConfig]:
        """The router with every weight and buffer random, and our reading of its config."""
        torch.manual_seed(seed)
        settings = AutoConfig.for_model(self.model_type, hidden_size=D, **self.config)
        name = self.module or self.model_type
        module = import_module(f"transformers.models.{name}.modeling_{name}")
        router = getattr(module, self.router)(settings)
        for parameter in router.parameters():
            nn.init.normal_(parameter.data, std=D**-0.5)
        for key, buffer in router.named_buffers():
            if key == "tid2eid":
                buffer.copy_(torch.rand(len(buffer), E).topk(K).indices)
        bias = correction_bias(router)
        if bias is not None:
            bias.data.normal_(self.bias_mean, self.bias_std)
        return router, moe_config(settings.to_dict())


SOFTMAX = {"num_experts_per_tok": K, "num_experts": E}
LOCAL = {"num_experts_per_tok": K, "num_local_experts": E}
KIMI = {"num_experts": E, "num_experts_per_token": K, "moe_renormalize": True}
KIMI |= {"num_expert_group": 4, "topk_group": 2, "routed_scaling_factor": 2.446}
V2 = V3 | GROUPS | {"routed_scaling_factor": 16.0, "topk_method": "group_limited_greedy"}
LONGCAT = {"n_routed_experts": 12, "zero_expert_num": 4, "moe_topk": K}

ORACLES = {
    "mixtral": Oracle("mixtral", "MixtralTopKRouter", LOCAL),
    "minimax": Oracle("minimax", "MiniMaxTopKRouter", LOCAL),
    "olmoe": Oracle("olmoe", "OlmoeTopKRouter", SOFTMAX),
    "olmoe, renormalised": Oracle("olmoe", "OlmoeTopKRouter", SOFTMAX | {"norm_topk_prob": True}),
    "qwen2_moe": Oracle("qwen2_moe", "Qwen2MoeTopKRouter", SOFTMAX),
    "qwen3_moe": Oracle("qwen3_moe", "Qwen3MoeTopKRouter", SOFTMAX | {"norm_topk_prob": True}),
    "qwen3_next": Oracle("qwen3_next", "Qwen3NextTopKRouter", SOFTMAX),
    "qwen3_5_moe": Oracle(
        "qwen3_5_moe_text", "Qwen3_5MoeTopKRouter", SOFTMAX, module="qwen3_5_moe"
    ),
    "hunyuan_v1_moe": Oracle(
        "hunyuan_v1_moe", "HunYuanMoEV1Gate", {"num_experts": E, "moe_topk": K}
    ),
    "gpt_oss": Oracle("gpt_oss", "GptOssTopKRouter", LOCAL),
    "deepseek_v2, greedy": Oracle(
        "deepseek_v2", "DeepseekV2TopkRouter", V2 | {"topk_method": "greedy"}
    ),
    "deepseek_v2, groups": Oracle("deepseek_v2", "DeepseekV2TopkRouter", V2),
    "deepseek_v3": Oracle("deepseek_v3", "DeepseekV3TopkRouter", V3 | GROUPS, 0.5),
    "deepseek_v3, s + b negative": Oracle(
        "deepseek_v3", "DeepseekV3TopkRouter", V3 | GROUPS, 0.5, -2.0
    ),
    "deepseek_v3, not renormalised": Oracle(
        "deepseek_v3", "DeepseekV3TopkRouter", V3 | GROUPS | {"norm_topk_prob": False}, 0.5
    ),
    "deepseek_v32": Oracle("deepseek_v32", "DeepseekV32TopkRouter", V3 | GROUPS, 0.5, -1.0),
    "kimi_k2, as deepseek_v3": Oracle(
        "deepseek_v3", "DeepseekV3TopkRouter", V3 | {"n_group": 1, "topk_group": 1}, 0.5
    ),
    "kimi_linear": Oracle("kimi_linear", "KimiLinearTopkRouter", KIMI, 0.5, -1.0),
    "glm4_moe": Oracle("glm4_moe", "Glm4MoeTopkRouter", V3, 0.5),
    "glm_moe_dsa": Oracle("glm_moe_dsa", "GlmMoeDsaTopkRouter", V3, 0.5),
    "dots1": Oracle("dots1", "Dots1TopkRouter", V3 | GROUPS, 0.5),
    "minimax_m2": Oracle("minimax_m2", "MiniMaxM2TopKRouter", LOCAL, 0.5),
    "minimax_m3, unscaled": Oracle(
        "minimax_m3_vl_text",
        "MiniMaxM3VLTopKRouter",
        LOCAL | {"routed_scaling_factor": 1.0},  # scaled after the experts, outside the router
        0.5,
        module="minimax_m3_vl",
    ),
    "ernie4_5_moe": Oracle(
        "ernie4_5_moe", "Ernie4_5_MoeTopKRouter", {"moe_num_experts": E, "moe_k": K}, 0.03
    ),
    "ernie4_5_moe, sum below the floor": Oracle(
        "ernie4_5_moe",
        "Ernie4_5_MoeTopKRouter",
        {"moe_num_experts": E, "moe_k": K, "moe_norm_min": 0.6},
        0.03,
    ),
    "longcat_flash": Oracle("longcat_flash", "LongcatFlashTopkRouter", LONGCAT, 0.03),
    "deepseek_v4": Oracle("deepseek_v4", "DeepseekV4TopKRouter", V3, 0.5),
    "deepseek_v4, hash": Oracle("deepseek_v4", "DeepseekV4HashRouter", V3 | {"vocab_size": 40}),
}


def correction_bias(router: nn.Module) -> Tensor | None:
    """The bias of the choice, wherever the class keeps it; MiniMax-M2's is given from outside."""
    if "MiniMaxM2" in type(router).__name__ and not hasattr(router, "e_score_correction_bias"):
        router.e_score_correction_bias = nn.Buffer(torch.zeros(E))
    holder = getattr(router, "moe_statics", router)
    return getattr(holder, "e_score_correction_bias", None)


def matrix(router: nn.Module) -> tuple[Tensor, Tensor | None]:
    """The router's matrix (E, D), and the bias of the logits if it has one."""
    for name in ("wg", "classifier"):
        router = getattr(router, name, router)
    return router.weight, getattr(router, "bias", None)


def theirs(router: nn.Module, x_TD: Tensor, ids_T: Tensor) -> tuple[Tensor, Tensor]:
    """Their experts and weights (T, K), in the order in which they come."""
    more = ()
    if type(router).__name__ == "MiniMaxM2TopKRouter":
        more = (router.e_score_correction_bias,)
    if hasattr(router, "tid2eid"):
        more = (ids_T,)
    _, weights_TK, experts_TK = router(x_TD, *more)
    return experts_TK, weights_TK


def ours(
    route: Callable, router: nn.Module, config: MoEConfig, x_TD: Tensor, ids_T: Tensor
) -> Routing:
    """Our routing with their weights."""
    logits_TE = F.linear(x_TD, *matrix(router))
    bias = correction_bias(router)
    bias_E = None if bias is None else bias.view(-1)
    if hasattr(router, "tid2eid"):
        return route(logits_TE, config, None, router.tid2eid[ids_T])
    return route(logits_TE, config, bias_E)


def gradients(
    experts_TK: Tensor, weights_TK: Tensor, router: nn.Module, x_TD: Tensor
) -> list[Tensor]:
    """Of a random projection of the weights, with respect to the input and the router's matrix.

    Each pair of token and expert has its own coefficient, whatever the order of the k is.
    """
    generator = torch.Generator().manual_seed(9)
    table_TE = torch.randn(len(x_TD), E, generator=generator, dtype=x_TD.dtype)
    loss = (weights_TK * table_TE.gather(1, experts_TK)).sum()
    return list(torch.autograd.grad(loss, [x_TD, matrix(router)[0]]))


def agree(experts_a: Tensor, weights_a: Tensor, experts_b: Tensor, weights_b: Tensor, to: float):
    """Same experts, and for each the same weight; the order of the k does not matter."""
    experts_a, order_a = experts_a.sort(-1)
    experts_b, order_b = experts_b.sort(-1)
    assert torch.equal(experts_a, experts_b), "other experts"
    torch.testing.assert_close(
        weights_a.gather(1, order_a), weights_b.gather(1, order_b), atol=to, rtol=to
    )


class KeepFloat64(TorchFunctionMode):
    """Takes out conversions to 32 bits: `.float()`, `.type(torch.float32)`, `softmax(dtype=)`."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.float:
            return args[0]
        if func is torch.Tensor.type and args[1:] == (torch.float32,):
            return args[0]
        if kwargs.get("dtype") is torch.float32:
            kwargs.pop("dtype")
        return func(*args, **kwargs)
