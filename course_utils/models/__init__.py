"""Room of whole models: the config, the decoder, shipped checkpoints, and a real open model."""

from course_utils.models.checkpoints import load_checkpoint, save_checkpoint, shipped
from course_utils.models.config import ModelConfig
from course_utils.models.convert import Conversion, gqa_to_mla
from course_utils.models.decoder import DecoderLM, moe_layers
from course_utils.models.routing import chosen_experts, without_expert
from course_utils.models.upcycling import upcycle

__all__ = [
    "Conversion",
    "DecoderLM",
    "ModelConfig",
    "chosen_experts",
    "gqa_to_mla",
    "load_checkpoint",
    "moe_layers",
    "save_checkpoint",
    "shipped",
    "upcycle",
    "without_expert",
]
