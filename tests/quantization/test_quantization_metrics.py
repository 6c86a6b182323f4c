"""Error and signal against noise, checked against theory and by hand."""

import math

import pytest
import torch

from course_utils.quantization import QuantizationArgs, fake_quantize
from course_utils.quantization.metrics import (
    largest_error,
    output_error,
    peak_to_rms,
    relative_error,
    sqnr_db,
    uniform_noise_db,
)


def test_by_hand():
    weight, restored = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 3.5])
    assert sqnr_db(weight, restored) == pytest.approx(20)  # 25 against 0.25
    assert relative_error(weight, restored) == pytest.approx(0.1)
    assert largest_error(weight, restored) == 0.5
    assert sqnr_db(weight, weight) == math.inf and relative_error(weight, weight) == 0
    assert peak_to_rms(torch.tensor([1.0, -7.0])) == pytest.approx(1.4)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_theory_for_evenly_spread_weights(bits):
    weight = torch.rand(4, 20_000, generator=torch.Generator().manual_seed(bits)) * 2 - 1
    measured = sqnr_db(weight, fake_quantize(weight, QuantizationArgs(bits)))
    assert measured == pytest.approx(uniform_noise_db(bits), abs=0.1)


def test_theory_for_normal_weights_needs_their_peak():
    weight = torch.randn(1, 4096, generator=torch.Generator().manual_seed(0))
    measured = sqnr_db(weight, fake_quantize(weight, QuantizationArgs(8)))
    assert measured == pytest.approx(uniform_noise_db(8, peak_to_rms(weight)), abs=0.2)
    assert measured < uniform_noise_db(8) - 4


def test_sqnr_does_not_see_the_unit_of_the_weights():
    weight = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    restored = fake_quantize(weight, QuantizationArgs(3))
    assert sqnr_db(1000 * weight, 1000 * restored) == pytest.approx(sqnr_db(weight, restored))


def test_output_error_is_the_layers_error_for_white_inputs():
    g = torch.Generator().manual_seed(2)
    weight, x_NI = torch.randn(64, 256, generator=g), torch.randn(2000, 256, generator=g)
    restored = fake_quantize(weight, QuantizationArgs(4))
    found = output_error(weight, restored, x_NI)
    assert found == pytest.approx(relative_error(weight, restored), rel=0.03)
    outlier = x_NI.clone()
    outlier[:, 7] *= 100  # now one column of the weight decides
    column = relative_error(weight[:, 7], restored[:, 7])
    assert output_error(weight, restored, outlier) == pytest.approx(column, rel=0.05)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="no signal"):
        sqnr_db(torch.zeros(3), torch.zeros(3))
    with pytest.raises(ValueError, match=r"\(2,\) and restored \(1,\)"):
        largest_error(torch.zeros(2), torch.zeros(1))
