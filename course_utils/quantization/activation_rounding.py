"""A whole model with rounded activations: every linear layer multiplies by another function.

`products` lets the linear layers of a decoder's layers compute `product(x_TI, weight_OI)` in place
of x W^T while its block runs, and puts them back afterwards: `llm_int8.int8_matmul`,
`mixed_matmul`, or a function of the learner's. Embedding, head, norms and attention itself stay in
floating point, as in the papers.

Simulated: the integers are multiplied as floats, so quality alone can be measured, never time.
Left out: scales fixed beforehand (static), which need no look at each token and are a little worse.
Source: Dettmers et al. 2022, "LLM.int8()", section 2; Xiao et al. 2023, "SmoothQuant", table 2.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from course_utils.quantization.calibration import linear_layers
from course_utils.quantization.llm_int8 import quantize_rows

Product = Callable[[Tensor, Tensor], Tensor]


@contextmanager
def products(model: nn.Module, product: Product) -> Iterator[nn.Module]:
    """Inside the block each linear layer gives product(x (T, I), W (O, I)), of shape (T, O).

    Raises ValueError for a layer with a bias, which the function would leave out.
    """
    layers = linear_layers(model)
    if biased := [name for name, part in layers.items() if part.bias is not None]:
        raise ValueError(f"{biased[0]} has a bias: products are for layers without one")
    try:
        for part in layers.values():
            part.forward = _forward(part, product)
        yield model
    finally:
        for part in layers.values():
            part.__dict__.pop("forward", None)


def _forward(part: nn.Linear, product: Product) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        return product(x.flatten(0, -2), part.weight).unflatten(0, x.shape[:-1])

    return forward


def one_scale_matmul(x_TI: Tensor, weight_OI: Tensor) -> Tensor:
    """x W^T (T, O) in eight bits with one scale for all tokens (weights: one for each output).

    The largest input of any token sets the step of all. Compare `llm_int8.int8_matmul`.
    """
    codes_N, scale = quantize_rows(x_TI.reshape(1, -1))
    codes_OI, scale_O1 = quantize_rows(weight_OI)
    return (codes_N.view(x_TI.shape).float() @ codes_OI.float().T) * scale * scale_O1.T
