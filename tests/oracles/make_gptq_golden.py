"""Write tests/quantization/gptq_golden.npz: codes of llm-compressor 0.14 for one small layer.

Run by hand where `llmcompressor` was installed without its dependencies, which do not resolve with
the course's `transformers`: `python tests/oracles/make_gptq_golden.py`.
"""

from pathlib import Path

import numpy as np
import torch
from compressed_tensors.quantization import QuantizationArgs as TheirArgs
from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight

from course_utils.quantization import QuantizationArgs, choose_qparams


def main() -> None:
    """Make the codes and write them."""
    generator = torch.Generator().manual_seed(0)
    weight_OI = torch.randn(16, 48, generator=generator)
    x_TI = torch.randn(200, 48, generator=generator) @ torch.randn(48, 48, generator=generator)
    hessian_II = x_TI.T @ x_TI / 200
    found = {"weight": weight_OI.numpy(), "hessian": hessian_II.numpy()}
    for bits in (2, 3, 4, 8):
        scale_OS, zero_OS = choose_qparams(weight_OI, QuantizationArgs(bits, True, "group", 16))
        args = TheirArgs(num_bits=bits, symmetric=True, strategy="group", group_size=16)
        parts = (weight_OI[None].clone(), hessian_II[None].clone(), scale_OS[None], zero_OS[None])
        rounded, _, _ = quantize_weight(*parts, None, args)
        codes = (rounded[0] / scale_OS.repeat_interleave(16, 1)).round()
        found[f"codes{bits}"] = codes.to(torch.int8).numpy()
    np.savez(Path(__file__).parents[1] / "quantization" / "gptq_golden.npz", **found)


if __name__ == "__main__":
    main()
