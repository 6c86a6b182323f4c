"""One training step of the course's dense model beside the same model built from `transformers`.

Same config, same weights at the start, same batches, the same AdamW; the two sides take turns. The
peer is `Qwen3ForCausalLM` with its default attention, the loss computed by the model itself.
"""

import torch
from bench_decode import row
from transformers import Qwen3Config, Qwen3ForCausalLM

from course_utils.display.timing import alternate
from course_utils.models import DecoderLM
from course_utils.records.dense import dense_config
from course_utils.training import TrainingConfig, next_token_loss
from course_utils.training.loop import make_optimizer

BATCH, LENGTH, STEPS, ROUNDS = 8, 256, 1, 15


def transformers_twin(model: DecoderLM) -> Qwen3ForCausalLM:
    """`Qwen3ForCausalLM` with the same shape and a copy of the weights."""
    config = model.config.to_dict()
    config.pop("use_qk_norm")
    rope = {"rope_type": "default", "rope_theta": config.pop("rope_theta")}
    twin = Qwen3ForCausalLM(Qwen3Config(**config, rope_parameters=rope, use_cache=False))
    twin.load_state_dict(model.state_dict())
    return twin.train()


def run() -> list[dict]:
    """Rows for `course bench training`."""
    model = DecoderLM(dense_config()).train()
    twin = transformers_twin(model)
    config = TrainingConfig(STEPS)
    ids = torch.randint(4096, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))

    def steps(losses, optimizer, weights) -> None:
        for _ in range(STEPS):
            losses().backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()

    ours_optimizer, theirs_optimizer = make_optimizer(model, config), make_optimizer(twin, config)
    ours, theirs = alternate(
        lambda: steps(
            lambda: next_token_loss(model(ids), ids), ours_optimizer, list(model.parameters())
        ),
        lambda: steps(
            lambda: twin(ids, labels=ids).loss, theirs_optimizer, list(twin.parameters())
        ),
        ROUNDS,
    )
    tokens = STEPS * BATCH * LENGTH
    return [row("training step, tokens/s", tokens / ours, tokens / theirs, 1.0)]
