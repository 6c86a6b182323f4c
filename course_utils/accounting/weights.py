"""The bytes that a model's weights take: parameters times bits per weight, in whole bytes.

Left out: what quantized formats store beside the weights (scales, zero points), which
`bits_per_weight` may include as a fraction, such as 4.5; and what a file adds around them.
"""

from math import ceil


def weight_bytes(parameters: int, bits_per_weight: float) -> int:
    """Bytes for `parameters` weights of `bits_per_weight` bits each, rounded up to whole bytes."""
    if not isinstance(parameters, int) or parameters < 0:
        raise ValueError(f"parameters is {parameters!r}: give a whole number that is not negative")
    if not bits_per_weight > 0:
        raise ValueError(
            f"bits_per_weight is {bits_per_weight!r}: give a number above 0, such as 16"
        )
    return ceil(parameters * bits_per_weight / 8)
