"""A teacher's packed logits on disk: the teacher reads a text once, students learn from it often.

A cache holds windows of ids and the packed logits of each position, in one safetensors file whose
header says what they came from: the teacher's weights, the tokenizer, the corpus (a hash each), the
temperature and k. Reading it for another teacher, tokenizer or corpus is refused by name, because
nothing else would show: the loss would only be a little worse.

Left out: files in several parts, for texts that do not fit in memory.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from course_utils.distillation.topk import IDS, PackedLogits, pack_top_k


@dataclass(frozen=True)
class CacheSource:
    """What cached logits came from: hashes of weights, tokenizer and corpus."""

    teacher: str
    tokenizer: str
    corpus: str


@dataclass(frozen=True)
class LogitCache:
    """Windows of ids (N, T) and the teacher's packed logits at each of their positions."""

    ids_NT: Tensor
    packed: PackedLogits
    source: CacheSource

    @property
    def nbytes(self) -> int:
        """Bytes of ids and logits together; the file has a header of a few hundred more."""
        return self.ids_NT.nbytes + self.packed.nbytes

    def rows(self, rows_B: Tensor, device: torch.device | str = "cpu"):
        """Ids (B, T) as int64 and their packed logits."""
        return self.ids_NT[rows_B].long().to(device), self.packed[rows_B].to(device)


def weights_hash(model: nn.Module) -> str:
    """Twelve hexadecimal digits over a model's weights and their names, in float32."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


@torch.no_grad()
def build_cache(
    teacher: Callable[[Tensor], Tensor],
    windows_NT: Tensor,
    k: int,
    source: CacheSource,
    *,
    temperature: float = 1.0,
    batch: int = 8,
) -> LogitCache:
    """Let the teacher read windows of ids (N, T), `batch` at a time, and keep its top k."""
    parts = [pack_top_k(teacher(ids_BT), k, temperature) for ids_BT in windows_NT.split(batch)]
    names = ("ids_BTK", "log_probs_BTK", "rest_BT")
    whole = (torch.cat([getattr(part, name) for part in parts]).cpu() for name in names)
    return LogitCache(windows_NT.cpu().to(IDS), PackedLogits(*whole, temperature), source)


def write_cache(cache: LogitCache, path: Path | str) -> int:
    """Write a cache to a safetensors file, whole or not at all; returns the file's bytes."""
    tensors = {
        "ids": cache.ids_NT,
        "top_ids": cache.packed.ids_BTK,
        "top_log_probs": cache.packed.log_probs_BTK,
        "rest": cache.packed.rest_BT,
    }
    header = asdict(cache.source) | {"temperature": cache.packed.temperature}
    partial = Path(path).with_suffix(".partial")
    save_file({name: t.contiguous() for name, t in tensors.items()}, partial, _texts(header))
    partial.replace(path)
    return Path(path).stat().st_size


def _texts(header: dict) -> dict[str, str]:
    return {key: json.dumps(value) for key, value in header.items()}


def read_cache(path: Path | str, source: CacheSource) -> LogitCache:
    """The cache of a file, which must have come from `source`.

    Raises ValueError for a file that is no cache, and for one of another teacher, tokenizer or
    corpus, naming which.
    """
    try:
        with safe_open(path, "pt") as file:
            header = {key: json.loads(text) for key, text in (file.metadata() or {}).items()}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        temperature = header.pop("temperature")
        found = CacheSource(**header)
        packed = PackedLogits(
            tensors["top_ids"], tensors["top_log_probs"], tensors["rest"], temperature
        )
        cache = LogitCache(tensors["ids"], packed, found)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a readable cache of teacher logits: {error}") from None
    for name, expected in asdict(source).items():
        if getattr(found, name) != expected:
            raise ValueError(
                f"{path} was made with another {name} ({getattr(found, name)}, expected "
                f"{expected}): build the cache anew with build_cache"
            )
    return cache
