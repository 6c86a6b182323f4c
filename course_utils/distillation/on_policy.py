"""On-policy distillation: the student writes, the teacher scores every token that it wrote.

A student that learns from the teacher's texts never sees its own mistakes, and at test time it has
to go on after them. Here the text is the student's own, so the teacher is asked in the places where
the student really gets to, wrong ones included.

1. The student samples completions. No gradient flows through the sampling: which tokens were drawn
   is a fact, and the text is from here on as given as a text from a file.
2. Teacher and student give their distributions at every position of it.
3. The loss is a divergence between the two, reverse KL or generalised Jensen-Shannon, averaged over
   the tokens of the completions. Prompt and padding do not count.

`sampled_reverse_kl` needs the teacher's log-probability of the drawn token alone, as from a server:
the log-ratio is then a reward, and its gradient is that of a policy gradient. Taken as a loss as it
is, the mean log-ratio has a gradient that is zero on average: it teaches nothing.

Left out: the mixture with texts of a fixed data set (Agarwal's lambda below 1), and several updates
on the same samples, which would need importance weights.

Sources: Agarwal et al. 2024, "On-Policy Distillation of Language Models" (GKD), section 3 and
algorithm 1; Gu et al. 2024, "MiniLLM", section 2.2; Qwen3 technical report, section 4.5.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from course_utils.distillation.losses import IGNORED, distillation_loss, reverse_kl, token_mean
from course_utils.distillation.sequence import pad_left
from course_utils.generation import generate
from course_utils.models import DecoderLM
from course_utils.training.loop import TrainingConfig, learning_rate, make_optimizer


def completion_labels(ids_BT: Tensor, prompt: int, end_id: int) -> Tensor:
    """What each position is to predict, (B, T): the id that follows, if it is of the completion.

    The first `prompt` ids are the prompt. IGNORED (-100) elsewhere: inside the prompt, after the
    first end, and at the last position.
    """
    labels_BT = torch.full_like(ids_BT, IGNORED)
    labels_BT[:, :-1] = ids_BT[:, 1:]
    labels_BT[:, : prompt - 1] = IGNORED
    ended_BT = (ids_BT[:, prompt:] == end_id).cumsum(dim=1) > 0
    labels_BT[:, prompt:][ended_BT] = IGNORED
    return labels_BT


def on_policy_loss(
    student: Callable[..., Tensor],
    teacher: Callable[..., Tensor],
    prompt_BT: Tensor,
    mask_BT: Tensor,
    draw: Callable[..., Tensor],
    end_id: int,
    divergence: Callable[..., Tensor] = reverse_kl,
) -> Tensor:
    """The divergence from the teacher on texts that the student wrote, a scalar in nats a token.

    prompt (B, T), padded on the left, mask 1 for real tokens. `draw(model, prompt_BT, mask_BT)`
    gives new ids (B, N), padded with `end_id`. Models are called as model(ids, attention_mask=...).
    """
    with torch.no_grad():
        new_BN = draw(student, prompt_BT, mask_BT)
    ids_BT = torch.cat([prompt_BT, new_BN], dim=1)
    mask_BT = torch.cat([mask_BT, torch.ones_like(new_BN)], dim=1)
    with torch.no_grad():
        teacher_logits_BTV = teacher(ids_BT, attention_mask=mask_BT)
    student_logits_BTV = student(ids_BT, attention_mask=mask_BT)
    labels_BT = completion_labels(ids_BT, prompt_BT.shape[1], end_id)
    return distillation_loss(
        student_logits_BTV, teacher_logits_BTV, labels_BT, divergence=divergence
    )


def sampled_reverse_kl(student_BT: Tensor, teacher_BT: Tensor, labels_BT: Tensor) -> Tensor:
    """A loss whose gradient estimates that of reverse KL from the drawn tokens alone, a scalar.

    student and teacher (B, T): log-probabilities of the tokens that the student drew; labels -100
    where not judged. The log-ratio is a reward and gets no gradient; each token is judged by itself
    (what it does to later tokens is left out). The value is no KL: only its gradient means
    something. Source: Gu et al. 2024, section 2.2, single-step part.
    """
    penalty_BT = (student_BT - teacher_BT).detach()
    return token_mean(penalty_BT * student_BT, labels_BT)


def distill_on_policy(
    student: DecoderLM,
    teacher: DecoderLM,
    prompts: Sequence[Sequence[int]],
    config: TrainingConfig,
    new_tokens: int,
    *,
    end_id: int,
    pad_id: int = 0,
    temperature: float = 1.0,
    divergence: Callable[..., Tensor] = reverse_kl,
    progress: bool = True,
) -> list[float]:
    """Train the student on its own samples with the teacher's scores; the loss of every step.

    Each step draws `config.batch` prompts (`config.length` is not used) and one completion each.
    """
    device, losses = next(student.parameters()).device, []
    generator = torch.Generator().manual_seed(config.seed)
    optimizer = make_optimizer(student, config)
    teacher.eval()
    for step in tqdm(range(config.steps), desc="on policy", disable=not progress, leave=False):
        rows = torch.randint(len(prompts), (config.batch,), generator=generator).tolist()
        batch = (x.to(device) for x in pad_left([prompts[row] for row in rows], pad_id))
        seed = config.seed * config.steps + step

        def draw(model: DecoderLM, ids_BT: Tensor, mask_BT: Tensor, seed: int = seed) -> Tensor:
            options = {"temperature": temperature, "seed": seed, "stop_ids": [end_id]}
            return generate(model, ids_BT, new_tokens, attention_mask=mask_BT, **options)

        loss = on_policy_loss(student, teacher, *batch, draw, end_id, divergence)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), config.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses
