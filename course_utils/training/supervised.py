"""Supervised fine-tuning: a trained model learns answers to prompts, judged on the answers alone.

An example is a prompt and the answer that is wanted. Both go through the model; the loss is counted
on the answer's tokens only, since the prompt is what a user will type. Examples are padded on the
right to one length; labels of prompt and padding are -100, the value that `transformers` ignores.
A batch is cut to its own longest example, and examples of like length can be put into one batch, as
`transformers` does with `group_by_length`: both save work on padding.

Left out: packing several examples into one row, and chat templates (a prompt is text; a template is
part of it).

Source: Ouyang et al. 2022, "InstructGPT", section 3.5 and appendix C.1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from course_utils.training.loop import TrainingConfig, learning_rate, make_optimizer

IGNORED = -100


@dataclass(frozen=True)
class Examples:
    """Token ids (N, T), and labels (N, T): the id where it is judged, -100 elsewhere."""

    ids_NT: Tensor
    labels_NT: Tensor

    def __len__(self) -> int:
        return len(self.ids_NT)

    def lengths(self) -> Tensor:
        """Tokens of each example without its padding, (N,)."""
        places_T = torch.arange(1, self.labels_NT.shape[1] + 1, device=self.labels_NT.device)
        return ((self.labels_NT != IGNORED) * places_T).amax(1)

    def to(self, device: torch.device | str) -> "Examples":
        """The same examples on another device."""
        return Examples(self.ids_NT.to(device), self.labels_NT.to(device))


def encode_examples(
    encode: Callable[[str], Sequence[int]], pairs: Sequence[tuple[str, str]], pad_id: int = 0
) -> Examples:
    """Encode (prompt, answer) pairs; prompt and answer are cut into tokens apart.

    Cut apart, an answer's first token is the same one that generation begins with. Raises
    ValueError for no pairs, an empty prompt or an empty answer.
    """
    if not pairs:
        raise ValueError("there are no examples: give at least one (prompt, answer)")
    rows = []
    for number, (prompt, answer) in enumerate(pairs):
        begin, end = list(encode(prompt)), list(encode(answer))
        if not begin or not end:
            raise ValueError(f"example {number} has an empty prompt or answer: {(prompt, answer)}")
        rows.append((begin + end, [IGNORED] * len(begin) + end))
    longest = max(len(ids) for ids, _ in rows)
    ids = [row + [pad_id] * (longest - len(row)) for row, _ in rows]
    labels = [row + [IGNORED] * (longest - len(row)) for _, row in rows]
    return Examples(torch.tensor(ids), torch.tensor(labels))


def supervised_loss(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    """Mean cross-entropy in nats over the judged tokens of the batch; position t predicts t + 1.

    Source: equal to the `loss` of `transformers`' causal models for these labels.
    """
    return F.cross_entropy(
        logits_BTV[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten(), ignore_index=IGNORED
    )


def draw_batches(
    lengths_N: Tensor, batch: int, group: int, generator: torch.Generator
) -> list[Tensor]:
    """Rows of `group` batches, drawn together; each batch (batch,) has rows of like length.

    Every example is as likely as any other. The batches stand in random order.
    """
    rows = torch.randint(len(lengths_N), (group * batch,), generator=generator)
    if group == 1:
        return [rows]
    order = lengths_N[rows].argsort(stable=True)
    batches = rows[order].view(group, batch)
    return [batches[i] for i in torch.randperm(group, generator=generator).tolist()]


def fine_tune(
    model: nn.Module,
    examples: Examples,
    config: TrainingConfig,
    *,
    loss_function: Callable[[Tensor, Tensor], Tensor] = supervised_loss,
    group: int = 1,
    progress: bool = True,
) -> list[float]:
    """Train the weights of `model` that ask for a gradient; returns the loss of every step.

    Each step draws `config.batch` examples (`config.length` is not used: rows have theirs), with
    `group` above 1 of like length (see `draw_batches`). Padding stands on the right, where causal
    attention does not see it. Frozen weights stay as they are: `training.lora` freezes all but its
    adapter.
    """
    device, lengths_N = next(model.parameters()).device, examples.lengths()
    examples, optimizer = examples.to(device), make_optimizer(model, config)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    generator, losses = torch.Generator().manual_seed(config.seed), []
    waiting: list[Tensor] = []
    model.train()
    for step in tqdm(range(config.steps), desc="fine-tuning", disable=not progress, leave=False):
        waiting = waiting or draw_batches(lengths_N, config.batch, group, generator)
        rows = waiting.pop()
        longest, rows = int(lengths_N[rows].max()), rows.to(device)
        labels_BT = examples.labels_NT[rows, :longest]
        loss = loss_function(model(examples.ids_NT[rows, :longest]), labels_BT)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, config.clip_norm)
        for part in optimizer.param_groups:
            part["lr"] = learning_rate(step, config)
        optimizer.step()
        losses.append(float(loss.detach()))
    model.eval()
    return losses
