"""GPTQ's codes equal those of llm-compressor, kept by `tests/oracles/make_gptq_golden.py`."""

from pathlib import Path

import numpy as np
import pytest
import torch

from course_utils.quantization import QuantizationArgs
from course_utils.quantization.gptq import gptq


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_codes_are_those_of_llm_compressor(bits):
    with np.load(Path(__file__).with_name("gptq_golden.npz")) as stored:
        golden = {key: torch.from_numpy(stored[key]) for key in stored.files}
    args = QuantizationArgs(bits, True, "group", 16)
    found = gptq(golden["weight"], golden["hessian"], args)
    assert torch.equal(found.codes_OI, golden[f"codes{bits}"])
