"""What the function keeps is what the module keeps."""

import torch

from course_utils.attention import LatentAttention, MLAConfig
from course_utils.attention.latent_rows import latent_rows
from course_utils.layers import rope_tables


@torch.no_grad()
def test_rows_are_those_of_the_module():
    generator = torch.Generator().manual_seed(0)
    module = LatentAttention(24, 3, MLAConfig(10, 6, 4, 8, q_lora_rank=12))
    for weight in module.parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator))
    x_BTD = torch.randn(2, 7, 24, generator=generator)
    cos, sin = rope_tables(torch.arange(7), 4)
    down_BTC = module.kv_a_proj_with_mqa(x_BTD)
    rows_BTC = latent_rows(down_BTC, module.kv_a_layernorm.weight, cos, sin)
    torch.testing.assert_close(rows_BTC, module.rows(x_BTD, cos, sin), rtol=0, atol=1e-6)
