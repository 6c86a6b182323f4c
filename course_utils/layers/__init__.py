"""Room of the parts that know tensors only: norm, rotary positions, feed-forward, linear maps."""

from course_utils.layers.linear import Linear, linear
from course_utils.layers.mlp import MLP, swiglu
from course_utils.layers.norm import RMSNorm, rms_norm
from course_utils.layers.packed import PackedLinear, pack_weights
from course_utils.layers.rope import apply_rope, apply_rope_interleaved, rope_tables

__all__ = [
    "MLP",
    "Linear",
    "PackedLinear",
    "RMSNorm",
    "apply_rope",
    "apply_rope_interleaved",
    "linear",
    "pack_weights",
    "rms_norm",
    "rope_tables",
    "swiglu",
]
