"""GPTQ: round a weight matrix column by column; columns not yet rounded make up for the error.

Rounding to nearest makes each weight's own error small. What counts is the error of the output,
tr(dW H dW^T) with H = X^T X of the layer's inputs: errors in two columns whose inputs go together
can cancel. When column i is fixed with an error e, the best correction of the later columns is
-e / U_ii times row i of U, where U is the upper Cholesky factor of H^-1 (U^T U = H^-1): its rows
are what the inverse would be after the earlier columns are taken out, computed once.

Two things make it safe: a column whose input is always 0 gets any diagonal, and `damp` times the
mean of the diagonal is added, because H of few tokens has no inverse. `round_columns` is the method
itself; `round_blocks` gives the same codes and updates later columns once per block, so that most
of the work is one matrix product. With `act_order` columns with large inputs are rounded first,
while many others are left to correct; every column keeps the scale of its own group, so the stored
layout does not change.

Scales come from the weights before any correction. By default the largest weight sets them, as in
llm-compressor, whose codes `gptq` then gives exactly; with `search` they cut the range, as the
`mse` option of the authors' code does. Left out: choosing a group's scale when it is reached (the
authors' code without `static_groups`), and several passes.
Source: Frantar et al. 2023, "GPTQ", section 3 and algorithm 1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from course_utils.quantization.affine import choose_qparams, dequantize, quantize
from course_utils.quantization.scale_search import search_qparams
from course_utils.quantization.schemes import QuantizationArgs

BLOCK = 128  # columns between two updates of everything behind them


@dataclass(frozen=True)
class Codes:
    """A quantized weight before packing: codes (O, I), scale and zero point (O, S)."""

    codes_OI: Tensor
    scale_OS: Tensor
    zero_point_OS: Tensor
    args: QuantizationArgs

    def dequantize(self) -> Tensor:
        """The weights that the codes stand for, (O, I) in float32."""
        return dequantize(self.codes_OI, self.scale_OS, self.zero_point_OS, self.args)


def round_to_nearest(weight_OI: Tensor, args: QuantizationArgs) -> Codes:
    """RTN: each weight to the nearest code, without a look at the inputs."""
    scale_OS, zero_point_OS = choose_qparams(weight_OI, args)
    codes_OI = quantize(weight_OI, scale_OS, zero_point_OS, args)
    return Codes(codes_OI, scale_OS, zero_point_OS, args)


def inverse_cholesky(hessian_II: Tensor, damp: float = 0.01) -> Tensor:
    """Upper triangular U (I, I) with U^T U = (H + damp * mean(diag H) * identity)^-1.

    An input that was never anything but 0 gets diagonal 1 first. Raises ValueError when the damped
    H still has no factor: for infinities and NaN, or too little damping.
    """
    damped_II = hessian_II.clone()
    diagonal_I = damped_II.diagonal()
    diagonal_I[diagonal_I == 0] = 1
    diagonal_I += damp * diagonal_I.mean()
    try:
        inverse_II = torch.cholesky_inverse(torch.linalg.cholesky(damped_II))
        return torch.linalg.cholesky(inverse_II, upper=True)
    except torch.linalg.LinAlgError:
        raise ValueError(
            f"H of shape {tuple(hessian_II.shape)} has no Cholesky factor with damp={damp}: give "
            "more calibration tokens or more damping (and look for infinities in the inputs)"
        ) from None


def round_columns(
    weight_OI: Tensor,
    upper_II: Tensor,
    scale_OI: Tensor,
    zero_point_OI: Tensor,
    args: QuantizationArgs,
) -> Tensor:
    """Codes (O, I), as integers in float: each column is rounded, and its error handed on.

    upper_II: from `inverse_cholesky`. scale_OI, zero_point_OI: those of every single weight.
    """
    rest_OI, codes_OI = weight_OI.clone(), torch.empty_like(weight_OI)
    for i in range(weight_OI.shape[1]):
        scaled_O = rest_OI[:, i] / scale_OI[:, i]
        codes_OI[:, i] = (scaled_O.round() + zero_point_OI[:, i]).clamp(args.q_min, args.q_max)
        rounded_O = (codes_OI[:, i] - zero_point_OI[:, i]) * scale_OI[:, i]
        error_O = (rest_OI[:, i] - rounded_O) / upper_II[i, i]
        rest_OI[:, i + 1 :] -= error_O[:, None] * upper_II[i, i + 1 :]
    return codes_OI


def round_blocks(
    weight_OI: Tensor,
    upper_II: Tensor,
    scale_OI: Tensor,
    zero_point_OI: Tensor,
    args: QuantizationArgs,
    block: int = BLOCK,
) -> Tensor:
    """`round_columns` with the updates behind a block of columns done as one product.

    The columns are kept as rows here, so that each step reads neighbouring numbers.
    """
    rest_IO, upper_II = weight_OI.T.contiguous(), upper_II.contiguous()
    scale_IO, zero_IO = scale_OI.T.contiguous(), zero_point_OI.T.to(weight_OI.dtype).contiguous()
    codes_IO = torch.empty_like(rest_IO)
    for start in range(0, len(rest_IO), block):
        stop = min(start + block, len(rest_IO))
        errors_BO = torch.empty_like(rest_IO[start:stop])
        for i in range(start, stop):
            codes_O = (rest_IO[i] / scale_IO[i]).round_().add_(zero_IO[i])
            codes_IO[i] = codes_O.clamp_(args.q_min, args.q_max)
            rounded_O = (codes_O - zero_IO[i]).mul_(scale_IO[i])
            errors_BO[i - start] = (rest_IO[i] - rounded_O).div_(upper_II[i, i])
            if i + 1 < stop:
                rest_IO[i + 1 : stop].addr_(
                    upper_II[i, i + 1 : stop], errors_BO[i - start], alpha=-1
                )
        rest_IO[stop:].addmm_(upper_II[start:stop, stop:].T, errors_BO, alpha=-1)
    return codes_IO.T.contiguous()


def gptq(
    weight_OI: Tensor,
    hessian_II: Tensor,
    args: QuantizationArgs,
    *,
    damp: float = 0.01,
    act_order: bool = False,
    search: bool = False,
    round_weights: Callable = round_blocks,
    upper_II: Tensor | None = None,
) -> Codes:
    """Quantize a weight (O, I) by GPTQ with H (I, I), the sum or mean of x x^T over tokens.

    `round_weights` has the signature of `round_columns`. `upper_II` spares the factorization where
    several weights read the same input (without act_order). `search`: scales by `search_qparams`,
    weighed by the diagonal of H, in place of the largest weight's. Inputs that were always 0 are
    free: their weights become 0.
    """
    importance_I = hessian_II.diagonal().clamp(min=torch.finfo(torch.float32).tiny)
    chosen = search_qparams(weight_OI, args, importance_I) if search else None
    scale_OS, zero_point_OS = chosen or choose_qparams(weight_OI, args)
    weight_OI = torch.where(hessian_II.diagonal() == 0, 0.0, weight_OI.float())
    scale_OI, zero_OI = (_each(x, weight_OI) for x in (scale_OS, zero_point_OS))
    if not act_order:
        upper_II = inverse_cholesky(hessian_II, damp) if upper_II is None else upper_II
        codes_OI = round_weights(weight_OI, upper_II, scale_OI, zero_OI, args)
    else:
        order_I = hessian_II.diagonal().argsort(descending=True)
        upper_II = inverse_cholesky(hessian_II[order_I][:, order_I], damp)
        permuted = (x[:, order_I] for x in (scale_OI, zero_OI))
        codes_OI = round_weights(weight_OI[:, order_I], upper_II, *permuted, args)
        codes_OI = codes_OI[:, order_I.argsort()]
    dtype = torch.int8 if args.symmetric else torch.uint8
    return Codes(codes_OI.to(dtype), scale_OS, zero_point_OS, args)


def _each(values_OS: Tensor, weight_OI: Tensor) -> Tensor:
    """A value per group (O, S) or (1, 1) as one per weight, (O, I)."""
    size = weight_OI.shape[1] // values_OS.shape[1]
    return values_OS.repeat_interleave(size, 1).expand(weight_OI.shape)


def output_error(weight_OI: Tensor, rounded_OI: Tensor, hessian_II: Tensor) -> float:
    """Relative squared error of the layer's output on the inputs behind H: 0 is none, 1 is all.

    tr(dW H dW^T) / tr(W H W^T): the inputs themselves are not needed.
    """
    difference_OI = (rounded_OI - weight_OI).float()
    error = ((difference_OI @ hessian_II) * difference_OI).sum()
    return float(error / ((weight_OI @ hessian_II) * weight_OI).sum())
