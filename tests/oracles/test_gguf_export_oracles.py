"""GGUF files of ours as others read them: bytes as `gguf` packs them, text as llama.cpp writes it.

These run in the oracles' environment (`make oracles`).
"""

import json
import urllib.request

import numpy as np
import pytest
import torch

from course_utils.data.assets import AssetMissing
from course_utils.data.tokenizer import course_tokenizer
from course_utils.formats import read_gguf
from course_utils.formats.gguf_blocks import TYPES
from course_utils.formats.gguf_write import quantize_blocks
from course_utils.models import shipped
from course_utils.models.pretrained import from_gguf, smollm2
from course_utils.quantization.gguf_export import save_gguf, tensor_names

gguf = pytest.importorskip("gguf", reason="the oracles' environment has it: make oracles")
xllamacpp = pytest.importorskip("xllamacpp", reason="the oracles' environment has it: make oracles")
NEW_TOKENS, RIVALS = 24, 0.5  # best two logits nearer than that may change places


def weights():
    """Random rows, one of zeros, one constant, one with an outlier, one of one sign."""
    rows = torch.randn(64, 512, generator=torch.Generator().manual_seed(0)) * 0.05
    rows[0], rows[1], rows[2, 3] = 0, 0.3, 5
    rows[3] = rows[3].abs() + 1
    return rows


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_0", "Q4_1"])
def test_the_bytes_are_those_of_the_gguf_package(kind):
    expected = gguf.quants.quantize(weights().numpy(), gguf.GGMLQuantizationType[kind])
    ours = quantize_blocks(weights(), kind)
    assert np.array_equal(ours.reshape(-1), expected.view(np.uint8).reshape(-1))


def test_q4_k_is_unpacked_as_the_gguf_package_unpacks_it():
    """It cannot pack this type: hand-packed bytes and random ones are unpacked by both."""
    entry = next(kind for kind in TYPES.values() if kind.name == "Q4_K")
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (20, 144), dtype=np.uint8)
    noise[:, :4] = rng.normal(size=(20, 2)).astype(np.float16).view(np.uint8)
    for blocks in (quantize_blocks(weights(), "Q4_K"), noise):
        theirs = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q4_K)
        np.testing.assert_allclose(entry.dequantize(blocks), theirs, rtol=1e-5, atol=1e-6)


def test_the_gguf_package_reads_the_file(tmp_path):
    model, path = shipped("dense"), tmp_path / "dense.gguf"
    save_gguf(model, course_tokenizer(), path, "Q4_K")
    reader = gguf.GGUFReader(path)
    assert [tensor.name for tensor in reader.tensors] == list(tensor_names(model.config))
    assert {tensor.tensor_type.name for tensor in reader.tensors} == {"F32", "Q8_0", "Q4_K"}
    assert reader.fields["general.architecture"].contents() == "qwen3"


def llama_cpp_tokens(path, ids: list[int]) -> list[int]:
    """The greedy ids that llama.cpp gives after a prompt of ids."""
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.n_gpu_layers, params.warmup = 256, 1, 0, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    question = {"prompt": ids, "n_predict": NEW_TOKENS, "temperature": 0.0, "ignore_eos": True}
    request = urllib.request.Request(
        server.listening_address + "/completion",
        json.dumps(question | {"return_tokens": True}).encode(),
        {"Content-Type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    answer = json.loads(opener.open(request, timeout=120).read())
    del server  # ends its threads
    return answer["tokens"]


@torch.no_grad()
def agreement(model, ids: list[int], theirs: list[int], end: int) -> int:
    """How many of their ids are ours; rivals may change places, and end the comparison there.

    The end token is left out, as it was told to leave it out.
    """
    logits_TV = model(torch.tensor([[*ids, *theirs]]))[0, len(ids) - 1 : -1]
    logits_TV[:, end] = -torch.inf
    for count, (token, logits_V) in enumerate(zip(theirs, logits_TV, strict=True)):
        if int(logits_V.argmax()) != token:
            gap = float(logits_V.max() - logits_V[token])
            assert gap < RIVALS, f"token {count} differs"
            return count
    return len(theirs)


def as_in_the_file(model, path):
    """The model with the weights that the file holds."""
    file = read_gguf(path)
    modules = dict(model.named_modules())
    for name, source in tensor_names(model.config).items():
        modules[source].weight.data = file.tensor(name)
    model.lm_head.weight = model.model.embed_tokens.weight
    return model


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_K"])
def test_llama_cpp_continues_the_course_model_with_the_same_text(tmp_path, kind):
    path = tmp_path / "dense.gguf"
    written = save_gguf(shipped("dense"), course_tokenizer(), path, kind)
    assert written == path.stat().st_size
    ids = course_tokenizer().encode("And God said unto the people of the land, ")
    model = as_in_the_file(shipped("dense"), path)
    theirs = llama_cpp_tokens(path, ids)
    assert agreement(model, ids, theirs, course_tokenizer().end_id) >= NEW_TOKENS // 3


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_llama_cpp_continues_smollm2_with_the_same_text(tmp_path, kind):
    try:
        smol = smollm2()
    except AssetMissing as missing:
        pytest.skip(str(missing))
    path = tmp_path / "smol.gguf"
    save_gguf(smol.model, smol.tokenizer, path, kind)
    read = from_gguf(path)
    ids = read.chat_ids("What is the capital of France?")[0].tolist()
    assert read.tokenizer.encode("It is 1789.") == smol.tokenizer.encode("It is 1789.")
    theirs = llama_cpp_tokens(path, ids)
    assert agreement(read.model, ids, theirs, read.tokenizer.end_id) >= NEW_TOKENS // 3
