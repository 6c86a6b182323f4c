"""Room of whole models: the config, the decoder, shipped checkpoints, and a real open model."""

from course_utils.models.checkpoints import load_checkpoint, save_checkpoint, shipped
from course_utils.models.config import ModelConfig
from course_utils.models.decoder import DecoderLM, moe_layers

__all__ = [
    "DecoderLM",
    "ModelConfig",
    "load_checkpoint",
    "moe_layers",
    "save_checkpoint",
    "shipped",
]
