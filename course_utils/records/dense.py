"""The shipped dense checkpoint: how it was trained, and its learning curve (chapter 02).

`python -m course_utils.records.dense [--device cuda]` trains 3.9 million parameters on about
12 passes over the training split, keeps the weights in models/shipped/dense.safetensors (bfloat16)
and the curve of the validation split in c02_dense.csv. Minutes on a GPU, most of a day on two
cores.
"""

from course_utils.models import ModelConfig
from course_utils.records.checkpoint import checkpoint_command

RECORD = "c02_dense"


def dense_config() -> ModelConfig:
    """3.9 million parameters: narrow and deep, six query heads on two key-value heads."""
    return ModelConfig(
        vocab_size=4096,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
    )


if __name__ == "__main__":
    method = "next-token prediction from random weights"
    checkpoint_command("dense", RECORD, __doc__, dense_config(), method)
