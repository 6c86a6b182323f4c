"""Room of training: the loss, the one loop of the course, evaluation in bits per byte, resuming."""

from course_utils.training.evaluate import Evaluation, bits_per_byte, evaluate
from course_utils.training.loop import TrainingConfig, TrainingState, learning_rate, train
from course_utils.training.loss import next_token_loss
from course_utils.training.moe_balance import (
    AuxiliaryLoss,
    BalanceTrace,
    BiasUpdate,
    SequenceLoss,
    ZLoss,
    layer_counts,
)

__all__ = [
    "AuxiliaryLoss",
    "BalanceTrace",
    "BiasUpdate",
    "Evaluation",
    "SequenceLoss",
    "TrainingConfig",
    "TrainingState",
    "ZLoss",
    "bits_per_byte",
    "evaluate",
    "layer_counts",
    "learning_rate",
    "next_token_loss",
    "train",
]
