"""Sequence-level distillation: the student reads what the teacher wrote, and no logits.

1. The teacher answers questions, several times each, at temperature 1.
2. A verifier throws wrong completions out (rejection sampling). What is kept is correct, and no
   person has written it.
3. The student is fine-tuned on question and kept completion, with the loss on the completion alone:
   `training.supervised` does that.

Only text passes from one to the other, so teacher and student may have different vocabularies. The
verifier decides what the student learns: what it lets through is taught as if it were right.

`complete` is the batched sampler: prompts are padded on the left, and every new token is computed
from the cache. `pass_at_k` says how likely k samples contain a right one.

Left out: a reward model in the verifier's place (for answers that nothing can check), and mixing
in other data, as DeepSeek-R1's 200,000 general samples.

Sources: Kim and Rush 2016, "Sequence-Level Knowledge Distillation", section 3.2; DeepSeek-AI 2025,
"DeepSeek-R1", sections 2.3.3 and 2.4 (rejection sampling, distillation); Chen et al. 2021,
"Evaluating Large Language Models Trained on Code", section 2.1 (pass@k).
"""

from collections.abc import Callable, Sequence
from math import comb

import torch
from torch import Tensor

from course_utils.generation import generate
from course_utils.models import DecoderLM


def pad_left(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Ids (B, T) of rows of different length, padded on the left; and the mask, 1 for real ones.

    ValueError when there is no row or an empty one.
    """
    if not rows or not all(rows):
        raise ValueError("a prompt is empty, or there is none: give each at least one token")
    longest = max(len(row) for row in rows)
    ids = [[pad_id] * (longest - len(row)) + list(row) for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids), torch.tensor(mask)


def complete(
    model: DecoderLM,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    *,
    end_id: int,
    pad_id: int = 0,
    temperature: float = 1.0,
    seed: int = 0,
    batch: int = 512,
) -> list[list[int]]:
    """One completion for each prompt, as lists of ids; the end is included if it was reached.

    To get several samples, give a prompt several times. `batch` prompts run at the same time; the
    result depends on it and on the seed. `new_tokens` is the longest that a completion may be.
    """
    device, found = next(model.parameters()).device, []
    for start in range(0, len(prompts), batch):
        ids_BT, mask_BT = pad_left(prompts[start : start + batch], pad_id)
        new_BN = generate(
            model,
            ids_BT.to(device),
            new_tokens,
            temperature=temperature,
            seed=seed + start,
            stop_ids=[end_id],
            attention_mask=mask_BT.to(device),
        )
        found += [until_end(row, end_id) for row in new_BN.tolist()]
    return found


def until_end(ids: Sequence[int], end_id: int) -> list[int]:
    """The ids up to the first `end_id`, which is included; all of them if there is none."""
    ids = list(ids)
    return ids[: ids.index(end_id) + 1] if end_id in ids else ids


def keep_traces(
    question: str,
    completions: Sequence[str],
    verify: Callable[[str, str], bool],
    most: int = 1,
) -> list[str]:
    """The first `most` different completions that pass `verify(question, completion)`.

    In the order in which they were sampled, whatever their length, so that what is kept is a fair
    sample of what is right. A question may have none. Source: DeepSeek-R1, section 2.3.3.
    """
    kept: list[str] = []
    for completion in completions:
        if len(kept) == most:
            break
        if completion not in kept and verify(question, completion):
            kept.append(completion)
    return kept


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The chance that k of the samples, drawn without putting back, contain a correct one.

    1 - C(n - c, k) / C(n, k): averaged over questions, an unbiased estimate of the chance that k
    new samples contain a correct one. ValueError unless 1 <= k <= samples and 0 <= correct <=
    samples. Source: Chen et al. 2021, equation 1.
    """
    if not 1 <= k <= samples or not 0 <= correct <= samples:
        raise ValueError(
            f"pass@{k} of {samples} samples, {correct} of them correct: k must be between 1 and "
            "the number of samples, and no more can be correct than there are"
        )
    return 1 - comb(samples - correct, k) / comb(samples, k)
