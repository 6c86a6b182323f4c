"""Packed weights and their kernels: real bytes, the same numbers, honest reasons."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.quantization import PackedWeight, QuantizationArgs, choose_kernel, fake_quantize
from course_utils.quantization.kernels import FEW_ROWS, KERNELS, misfits
from course_utils.quantization.schemes import WIDTHS

CHANNEL8, GROUP4 = QuantizationArgs(8), QuantizationArgs(4, True, "group", 32)
FITTING = {
    "int8": [CHANNEL8],
    "dynamic_int8": [CHANNEL8],
    "int4": [
        GROUP4,
        QuantizationArgs(4),
        QuantizationArgs(4, False),
        QuantizationArgs(4, False, "group", 64),
    ],
    "dequantize": [QuantizationArgs(3, False, "group", 16), QuantizationArgs(8, False, "tensor")],
}
CASES = [(name, args) for name, schemes in FITTING.items() for args in schemes]


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def same(one: PackedWeight, other: PackedWeight) -> bool:
    mine, theirs = one.tensors(), other.tensors()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[n], theirs[n]) for n in mine)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(WIDTHS), st.booleans(), st.integers(1, 40), st.integers(0, 2**31))
def test_a_packed_weight_is_the_rounded_weight(bits, symmetric, columns, seed):
    weight_OI, args = random(5, columns, seed=seed), QuantizationArgs(bits, symmetric)
    exact = PackedWeight.quantize(weight_OI, args, scale_dtype=torch.float32)
    assert torch.equal(exact.dequantize(), fake_quantize(weight_OI, args))
    assert exact.packed.numel() == 5 * -(-columns * bits // 8)


@pytest.mark.parametrize("bits", WIDTHS)
def test_bytes_are_counted_on_the_tensors_and_scales_are_among_them(bits):
    weight_OI = random(64, 128)
    for args in (QuantizationArgs(bits), QuantizationArgs(bits, True, "group", 32)):
        packed = PackedWeight.quantize(weight_OI, args)
        assert packed.nbytes() == sum(part.nbytes for part in packed.tensors().values())
        assert packed.bits_per_weight() == args.bits_per_weight(weight_OI.shape)
    uneven = PackedWeight.quantize(weight_OI, QuantizationArgs(bits, False, "group", 32))
    assert uneven.bits_per_weight() == uneven.args.bits_per_weight(weight_OI.shape, zero_bits=8)


def test_two_bits_are_an_eighth_of_sixteen_and_the_scales():
    packed = PackedWeight.quantize(random(64, 128), QuantizationArgs(2, True, "group", 32))
    assert packed.packed.nbytes * 8 == random(64, 128).bfloat16().nbytes
    assert packed.nbytes() == 64 * 128 // 4 + 2 * 64 * 4


def test_codes_are_chosen_for_the_scale_that_is_stored():
    """Rounding a scale to 16 bits after choosing codes would add a tenth to the squared error."""
    weight_OI = random(256, 64)
    packed = PackedWeight.quantize(weight_OI, CHANNEL8)
    late = PackedWeight.quantize(weight_OI, CHANNEL8, scale_dtype=torch.float32)
    late = PackedWeight.from_codes(late.codes(), late.scale, late.scale * 0, CHANNEL8)
    assert late.scale.dtype == torch.bfloat16

    def error(weight):
        return (weight.dequantize() - weight_OI).pow(2).mean()

    assert error(packed) < 0.95 * error(late)


@pytest.mark.parametrize(("name", "args"), CASES)
@pytest.mark.parametrize("rows", [1, 4, FEW_ROWS + 1])
def test_a_kernel_multiplies_by_the_dequantized_weight(name, args, rows):
    packed = PackedWeight.quantize(random(64, 192), args)
    kernel = choose_kernel(packed, name)
    x_TI = random(rows, 192, seed=1)
    got, expected = kernel(x_TI), x_TI @ packed.dequantize().T
    assert got.shape == expected.shape and got.dtype == torch.float32
    allowed = {"dequantize": 1e-6, "dynamic_int8": 0.03}.get(name, 0.01)
    assert (got - expected).norm() < allowed * expected.norm()
    assert kernel(x_TI.bfloat16()).dtype == torch.bfloat16
    once = kernel.product(x_TI[:1].to(kernel.activations))
    assert once.dtype == kernel.activations
    assert (once.float() - expected[:1]).norm() < 2 * allowed * expected[:1].norm()


@pytest.mark.parametrize(("name", "args"), CASES)
def test_a_kernel_gives_back_the_very_weight_that_it_was_given(name, args):
    for O, I in ((64, 192), (16, 64), (256, 64)):  # noqa: E741
        packed = PackedWeight.quantize(random(O, I), args)
        assert same(choose_kernel(packed, name).packed_weight(), packed)


@pytest.mark.parametrize(("name", "args"), CASES)
def test_a_kernel_keeps_no_second_copy(name, args):
    packed = PackedWeight.quantize(random(256, 256), args)
    kept, stored = choose_kernel(packed, name).nbytes(), packed.nbytes()
    scales = 256 * 256 // (args.group_size or 64) * 4
    assert kept <= (stored if name in ("int8", "dequantize") else packed.packed.nbytes + scales)


def test_rows_of_a_table_are_those_of_the_whole():
    ids = torch.tensor([3, 0, 3, 9])
    for args in (
        CHANNEL8,
        QuantizationArgs(3, False, "group", 8),
        QuantizationArgs(4, True, "tensor"),
    ):
        packed = PackedWeight.quantize(random(10, 32), args)
        kernel = choose_kernel(packed)
        assert torch.equal(kernel.rows(ids), packed.dequantize()[ids])


def test_one_row_with_an_outlier_does_not_spoil_the_others():
    packed = PackedWeight.quantize(random(64, 192), CHANNEL8)
    x_TI = random(4, 192, seed=1)
    x_TI[0, 0] = 1000
    got, expected = choose_kernel(packed, "dynamic_int8")(x_TI), x_TI @ packed.dequantize().T
    assert (got - expected)[1:].norm() < 0.03 * expected[1:].norm()
    assert (got - expected)[0].norm() > 3.0  # its own small numbers are lost


@pytest.mark.parametrize(
    ("args", "shape", "kernel", "reason"),
    [
        (CHANNEL8, (16, 32), "int8", ""),
        (GROUP4, (16, 64), "int4", "8 symmetric bits"),
        (GROUP4, (8, 64), "dequantize", "multiples of 16 rows and 32 columns, not 8 x 64"),
        (QuantizationArgs(4, True, "group", 16), (16, 64), "dequantize", "not of 16"),
        (QuantizationArgs(2), (16, 64), "dequantize", "it takes 4 bits"),
        (QuantizationArgs(8, True, "group", 32), (16, 64), "dequantize", "one scale per channel"),
    ],
)
def test_the_kernel_is_chosen_by_the_weight_and_the_others_say_why_not(args, shape, kernel, reason):
    packed = PackedWeight.quantize(random(*shape), args)
    assert choose_kernel(packed).name == kernel
    assert reason in "; ".join(misfits(packed).values())
    if kernel == "dequantize":
        with pytest.raises(ValueError, match="kernel 'int8' does not fit"):
            choose_kernel(packed, "int8")


def test_scales_of_another_type_go_to_the_general_way_and_it_is_said():
    packed = PackedWeight.quantize(random(16, 32), CHANNEL8, scale_dtype=torch.float16)
    assert choose_kernel(packed).name == "dequantize"
    assert "bfloat16 scales, not torch.float16" in misfits(packed)["int8"]


def test_unknown_kernels_and_misfit_parts_are_refused():
    packed = PackedWeight.quantize(random(16, 32), CHANNEL8)
    with pytest.raises(ValueError, match=f"unknown kernel 'int7': there are {', '.join(KERNELS)}"):
        choose_kernel(packed, "int7")
    with pytest.raises(ValueError, match=r"scales have shape \(16, 1\).*need \(16, 2\)"):
        args = QuantizationArgs(8, True, "group", 16)
        PackedWeight.from_codes(packed.codes(), packed.scale, packed.scale, args)
    with pytest.raises(ValueError, match="lacks weight_scale"):
        PackedWeight.from_tensors({"weight_packed": packed.packed}, CHANNEL8, 32)
    with pytest.raises(ValueError, match="do not belong together"):
        PackedWeight.from_tensors(packed.tensors(), GROUP4, 32)


def test_infinities_are_refused_with_the_name_of_the_weight():
    weight_OI = random(4, 8)
    weight_OI[1, 2] = float("inf")
    with pytest.raises(ValueError, match=r"layers\.0\.up_proj holds inf in row 1, column 2"):
        PackedWeight.quantize(weight_OI, CHANNEL8, name="layers.0.up_proj")


def test_a_scale_that_vanishes_in_sixteen_bits_is_refused():
    with pytest.raises(ValueError, match="1 / scale of weight holds inf"):
        PackedWeight.quantize(random(4, 8) * 1e-9, CHANNEL8, scale_dtype=torch.float16)
