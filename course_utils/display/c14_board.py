"""The bit-allocation board: bits for each layer under a budget, and the loss that follows.

The widget of chapter 14. Layers are rounded ahead, in every width and with searched scales, so that
a choice costs one pass over the windows. Rounding is simulated: quality is measured, bytes counted.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.display.figures import COLOURS, figure, show_figure
from course_utils.quantization import QuantizationArgs, choose_qparams, dequantize, quantize
from course_utils.quantization.calibration import linear_layers
from course_utils.quantization.gptq_model import grouped
from course_utils.quantization.scale_search import search_qparams

WIDTHS = (2, 3, 4, 8)


class Board:
    """A dense model whose layers take any of `widths` bits, measured on fixed windows (N, T).

    Embedding, head and norms stay in 32 bits and are not counted.
    """

    def __init__(self, model: nn.Module, ids_NT: Tensor, widths: Sequence[int] = WIDTHS):
        self.model, self.ids_NT, self.widths = copy.deepcopy(model).eval(), ids_NT, tuple(widths)
        self.parts: list[dict[str, nn.Linear]] = []
        for name, part in linear_layers(self.model).items():
            layer = int(name.split("layers.")[1].split(".")[0])
            self.parts += [{}] * (layer >= len(self.parts))
            self.parts[layer] = {**self.parts[layer], name: part}
        self._forms = [
            {bits: self._rounded(parts, bits) for bits in self.widths} for parts in self.parts
        ]
        self._plain = [_weights(parts) for parts in self.parts]
        self._seen: dict[tuple, float] = {}

    def _rounded(self, parts: Mapping[str, nn.Linear], bits: int) -> list[Tensor]:
        scheme = grouped(bits)
        return [_searched(p.weight.detach(), scheme(n, p.in_features)) for n, p in parts.items()]

    def bits_per_weight(self, bits: Sequence[int]) -> float:
        """Mean bits of a weight for these layers' bits, scales and zero points counted."""
        stored = count = 0.0
        for parts, width in zip(self.parts, bits, strict=True):
            for name, part in parts.items():
                args = grouped(width)(name, part.in_features)
                stored += args.bits_per_weight(part.weight.shape) * part.weight.numel()
                count += part.weight.numel()
        return stored / count

    @torch.no_grad()
    def nats(self, bits: Sequence[int] | None = None) -> float:
        """Mean loss of a token with these bits for each layer; None leaves all in 32."""
        key = tuple(bits) if bits is not None else ()
        if key not in self._seen:
            for n, parts in enumerate(self.parts):
                form = self._forms[n][key[n]] if key else self._plain[n]
                for part, weight_OI in zip(parts.values(), form, strict=True):
                    part.weight.copy_(weight_OI)
            logits_BTV = self.model(self.ids_NT)[:, :-1].float()
            targets_N = self.ids_NT[:, 1:].flatten()
            self._seen[key] = float(F.cross_entropy(logits_BTV.flatten(0, 1), targets_N))
        return self._seen[key]


def _weights(parts: Mapping[str, nn.Linear]) -> list[Tensor]:
    return [part.weight.detach().clone() for part in parts.values()]


def _searched(weight_OI: Tensor, args: QuantizationArgs) -> Tensor:
    """The weight rounded with searched scales; at 8 bits a search finds nothing and is left out."""
    qparams = (choose_qparams if args.num_bits == 8 else search_qparams)(weight_OI, args)
    return dequantize(quantize(weight_OI, *qparams, args), *qparams, args)


def allocation_board(board: Board) -> Callable[..., None]:
    """A function (budget, layer_0, layer_1, ...) that draws an allocation and says what it costs.

    budget: mean bits of a weight that may be spent, scales counted.
    """

    def show_board(budget: float, **layers: int) -> None:
        bits = [layers[f"layer_{n}"] for n in range(len(board.parts))]
        spent, nats = board.bits_per_weight(bits), board.nats(bits)
        over = spent > budget + 1e-9
        fig, (axis,) = figure(width=7.2, height=2.6)
        axis.bar(range(len(bits)), bits, color=COLOURS[1] if over else COLOURS[0])
        axis.axhline(budget, color="grey", linestyle="--", linewidth=1)
        axis.text(len(bits) - 0.4, budget, "budget", va="bottom", color="grey")
        axis.set(xlabel="layer", ylabel="bits of a code", ylim=(0, max(board.widths) + 0.5))
        axis.set_xticks(range(len(bits)))
        verdict = "over budget" if over else "within budget"
        axis.set_title(f"{spent:.2f} bits a weight ({verdict}): perplexity {math.exp(nats):.1f}")
        show_figure(
            fig,
            f"bars for the bits of each layer; {spent:.2f} bits a weight with scales, {verdict} of "
            f"{budget:.2f}; the loss is {nats - board.nats():.3f} nats a token above 32 bits.",
        )

    return show_board
