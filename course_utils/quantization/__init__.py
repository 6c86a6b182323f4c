"""Room of quantization: weights in few bits, packed, run from their packed form, and calibrated."""

from course_utils.quantization.affine import (
    already_on_grid,
    check_finite,
    choose_qparams,
    dequantize,
    fake_quantize,
    quantize,
)
from course_utils.quantization.packing import pack, packed_columns, unpack
from course_utils.quantization.schemes import QuantizationArgs

__all__ = [
    "QuantizationArgs",
    "already_on_grid",
    "check_finite",
    "choose_qparams",
    "dequantize",
    "fake_quantize",
    "pack",
    "packed_columns",
    "quantize",
    "unpack",
]
