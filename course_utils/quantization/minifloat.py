"""Small floating-point formats: their values, and rounding to them.

A number has a sign, an exponent of e bits and a mantissa of m bits. Between two powers of two lie
2^m values at equal distances, so the error is a fixed share of the number, 2^-(m + 1) at most, and
not a fixed step as with integers. Below the smallest normal number 2^(1 - bias) the steps stay
equal down to zero (subnormal numbers): there the share grows, and below half a step it is all.

    E4M3   1 + 4 + 3 bits, up to 448        weights and activations in FP8
    E5M2   1 + 5 + 2 bits, up to 57,344     gradients in FP8
    E2M1   1 + 2 + 1 bits, up to 6          the numbers of MXFP4

What is too large becomes the largest value. Rounding is to the nearest, of two equally near to the
one with an even mantissa. Left out: NaN and infinities, which the formats have codes for.
Source: Micikevicius et al. 2022, "FP8 Formats for Deep Learning", section 3.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MiniFloat:
    """exponent_bits, mantissa_bits and the largest finite value of a format."""

    name: str
    exponent_bits: int
    mantissa_bits: int
    largest: float

    @property
    def smallest_normal(self) -> float:
        """2^(1 - bias), with the bias 2^(e - 1) - 1."""
        return 2.0 ** (2 - 2 ** (self.exponent_bits - 1))

    @property
    def smallest(self) -> float:
        """The smallest value above zero, a subnormal number."""
        return self.smallest_normal * 2.0**-self.mantissa_bits

    def values(self) -> Tensor:
        """All values from zero up to the largest, ascending, float64."""
        mantissas = torch.arange(2**self.mantissa_bits, dtype=torch.float64)
        powers = 2.0 ** torch.arange(2**self.exponent_bits - 1, dtype=torch.float64)
        normal = (2**self.mantissa_bits + mantissas) * powers[:, None] * self.smallest
        found = torch.cat([mantissas * self.smallest, normal.flatten()])
        return found[found <= self.largest]

    def round(self, x: Tensor) -> Tensor:
        """The nearest values, in the dtype of x."""
        exponent = torch.frexp(x).exponent - 1  # |x| lies in [2^exponent, 2^(exponent + 1))
        least = torch.frexp(torch.tensor(self.smallest_normal)).exponent.to(x.device) - 1
        step = 2.0 ** (torch.maximum(exponent, least) - self.mantissa_bits).to(x.dtype)
        return ((x / step).round() * step).clamp(-self.largest, self.largest)


E4M3 = MiniFloat("E4M3", 4, 3, 448.0)
E5M2 = MiniFloat("E5M2", 5, 2, 57344.0)
E2M1 = MiniFloat("E2M1", 2, 1, 6.0)
