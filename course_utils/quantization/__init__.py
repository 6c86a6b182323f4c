"""Room of quantization: weights in few bits, packed, run from their packed form, and calibrated."""

from course_utils.quantization.affine import (
    already_on_grid,
    check_finite,
    choose_qparams,
    dequantize,
    fake_quantize,
    quantize,
)
from course_utils.quantization.checkpoint import load_quantized, save_quantized
from course_utils.quantization.compressed_tensors import save_compressed_tensors
from course_utils.quantization.fast_decode import FastDecoder
from course_utils.quantization.fused import fuse
from course_utils.quantization.gguf_export import save_gguf
from course_utils.quantization.kernels import choose_kernel
from course_utils.quantization.linear import QuantizedEmbedding, QuantizedExperts, QuantizedLinear
from course_utils.quantization.model import (
    bits_per_weight,
    count_weights,
    explain,
    install_weights,
    packed_layers,
    packed_weights,
    quantizable,
    quantize_model,
    weight_bytes,
)
from course_utils.quantization.packed import PackedWeight
from course_utils.quantization.packing import pack, packed_columns, unpack
from course_utils.quantization.schemes import QuantizationArgs

__all__ = [
    "FastDecoder",
    "PackedWeight",
    "QuantizationArgs",
    "QuantizedEmbedding",
    "QuantizedExperts",
    "QuantizedLinear",
    "already_on_grid",
    "bits_per_weight",
    "check_finite",
    "choose_kernel",
    "choose_qparams",
    "count_weights",
    "dequantize",
    "explain",
    "fake_quantize",
    "fuse",
    "install_weights",
    "load_quantized",
    "pack",
    "packed_columns",
    "packed_layers",
    "packed_weights",
    "quantizable",
    "quantize",
    "quantize_model",
    "save_compressed_tensors",
    "save_gguf",
    "save_quantized",
    "unpack",
    "weight_bytes",
]
