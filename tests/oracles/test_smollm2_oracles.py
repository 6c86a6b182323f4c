"""SmolLM2 as others read it: `gguf` unpacks the same weights, `transformers` computes the same
logits from the same file, llama.cpp cuts text into the same tokens.

These run in the oracles' environment (`make oracles`).
"""

import json
import random
import unicodedata
import urllib.request

import numpy as np
import pytest
import torch

from course_utils.data.assets import AssetMissing, asset_path
from course_utils.data.texts import chinese, code, english, worked_arithmetic
from course_utils.formats import read_gguf
from course_utils.models.pretrained import smollm2

gguf = pytest.importorskip("gguf", reason="the oracles' environment has it: make oracles")
xllamacpp = pytest.importorskip("xllamacpp", reason="the oracles' environment has it: make oracles")

TEXTS = {
    "english": "The quick brown fox jumps over the lazy dog, doesn't it? Yes: it does; surely!",
    "contractions": "I'm you're he'll they'd we've it's DON'T 'tis o'clock rock'n'roll ''s 's'",
    "chinese": "却说曹操引兵追赶玄德，忽报孙权合淝有变。「天下」大勢，分久必合。",
    "code": "def f(x: int):\n\treturn [i**2 for i in range(x)]  # >= 0\n\n\nclass A: ...\n",
    "digits": "1 12 123 1234567890 3.14159 1,000,000 0x1F 2024-01-31 5th x2y3 ٣ ² ½ １２",
    "spaces": " a  b   c    d\t\te\n\n\nf \n g\r\nh   ",
    "only spaces": "     ",
    "line ends": "\n\n \n",
    "emoji": "🙂🙃 👩‍👩‍👧‍👦 🇫🇷 ❤️ ok👍🏽ok",
    "accents": "naïve café Zürich Ωmega пример עברית العربية हिन्दी ไทย 한국어 e\u0301",
    "special-looking": "<|im_start|>user\nhi<|im_end|> <|im_sep|> <|endoftext|> <s> <|im_start",
    "special glued": "a<|im_end|>b <|im_end|> <|im_end|>\n<|im_start|>12",
    "control signs": "a\x00b\x01c\x7f\u200b\u00a0\ufeff\u2028d",
    "capitals": "HTTPServer camelCase snake_case SCREAMING_CASE iPhone15Pro",
    "punctuation": "!!! ... --- *** ((())) \"quoted\" 'single' `code` $5 50% #tag @me a&b c/d\\e",
    "long word": "a" * 300 + " " + "ab" * 100,
    "empty": "",
}


@pytest.fixture(scope="module")
def path():
    try:
        return asset_path("smollm2")
    except AssetMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def reader(path):
    return gguf.GGUFReader(path)


@pytest.fixture(scope="module")
def ours(path):
    return smollm2(path)


@pytest.fixture(scope="module")
def llama_cpp_ids(path):
    """A function from text to llama.cpp's ids; its server answers on this machine only."""
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.n_gpu_layers, params.warmup = 64, 1, 0, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
    server = xllamacpp.Server(params)
    address = f"{server.listening_address}/tokenize"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ids(text: str) -> list[int]:
        question = {"content": text, "add_special": False, "parse_special": True}
        request = urllib.request.Request(
            address,
            json.dumps(question).encode(),
            {"Content-Type": "application/json"},
        )
        return json.loads(opener.open(request, timeout=60).read())["tokens"]

    yield ids
    del server  # ends its thread


def test_every_tensor_is_unpacked_as_gguf_unpacks_it(path, reader):
    ours = read_gguf(path)
    assert list(ours.entries) == [tensor.name for tensor in reader.tensors]
    kinds = set()
    for tensor in reader.tensors:
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        got = ours.tensor(tensor.name)
        kinds.add(ours.entries[tensor.name].kind.name)
        assert ours.entries[tensor.name].kind.name == tensor.tensor_type.name
        assert got.shape == expected.shape == tuple(int(n) for n in tensor.shape[::-1])
        assert np.array_equal(got.numpy(), expected), tensor.name
    assert kinds == {"F32", "Q4_1", "Q8_0"}


@pytest.mark.parametrize("name", ["F32", "F16", "Q4_0", "Q4_1", "Q8_0"])
def test_what_gguf_packs_is_read_back(tmp_path, name):
    """A file written by the `gguf` package, of every type that is read here."""
    weights = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
    kind = gguf.GGMLQuantizationType[name]
    packed = gguf.quants.quantize(weights, kind)
    writer = gguf.GGUFWriter(tmp_path / "w.gguf", "llama")
    writer.add_context_length(77)
    writer.add_array("words", ["one", "二"])
    writer.add_tensor("w", packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = read_gguf(tmp_path / "w.gguf")
    assert file.metadata["llama.context_length"] == 77 and file.metadata["words"] == ["one", "二"]
    assert np.array_equal(file.tensor("w").numpy(), gguf.quants.dequantize(packed, kind))
    assert np.abs(file.tensor("w").numpy() - weights).max() < {"F32": 1e-9, "F16": 1e-2}.get(
        name, 0.4
    )


def test_metadata_are_those_that_gguf_reads(path, reader):
    ours, theirs = read_gguf(path).metadata, reader.fields
    keys = {key for key in theirs if not key.startswith("GGUF.")}
    assert set(ours) == keys
    for key in keys - {"tokenizer.ggml.tokens", "tokenizer.ggml.merges"}:  # long; tested by ids
        assert ours[key] == theirs[key].contents(), key


@torch.no_grad()
def test_transformers_reads_the_same_file_to_the_same_logits(path, ours, reader, monkeypatch):
    """Unpacked, renamed and un-permuted by the reader of `transformers`, which uses `gguf`.

    That is what `from_pretrained(gguf_file=...)` does, which asks for one more package.
    """
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    monkeypatch.setattr(gguf, "GGUFReader", lambda _: reader)  # parsing takes seconds: do it once
    config = LlamaConfig(**load_gguf_checkpoint(str(path))["config"])
    with torch.device("meta"):
        theirs = LlamaForCausalLM(config)
    loaded = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=theirs)
    theirs.load_state_dict(loaded["tensors"], assign=True, strict=False)
    theirs.tie_weights()
    theirs.model.rotary_emb = type(theirs.model.rotary_emb)(config)
    assert not any(weight.is_meta for weight in theirs.state_dict().values())
    theirs.eval()
    for text in (TEXTS["english"], TEXTS["code"], TEXTS["chinese"]):
        ids = torch.tensor([ours.tokenizer.encode(text)])
        expected = theirs(ids).logits
        assert expected.abs().max() > 5
        torch.testing.assert_close(ours.model(ids), expected, rtol=0, atol=1e-3)
    state = theirs.state_dict()
    for name, weight in ours.model.state_dict().items():
        torch.testing.assert_close(weight, state[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", list(TEXTS))
def test_tokens_are_llama_cpps(name, ours, llama_cpp_ids):
    assert ours.tokenizer.encode(TEXTS[name]) == llama_cpp_ids(TEXTS[name])


def random_texts(count: int) -> list[str]:
    """Texts from all of Unicode, from its first planes, and mixtures of pieces that tend to matter.

    Code points that Unicode has not assigned are left out: llama.cpp never merges across them.
    """
    rng = random.Random(2026)
    points = [n for n in range(1, 0x110000) if unicodedata.category(chr(n)) not in ("Cn", "Cs")]
    low = [n for n in points if n < 0x3000]
    pieces = [*" \n\t'0123456789", "  ", "'s", "'ll", "\r\n", "the", " The", "中", "é", "🙂", "-"]
    texts = []
    for _ in range(count):
        length = rng.randrange(1, 30)
        texts.append("".join(map(chr, rng.choices(points, k=length))))
        texts.append("".join(map(chr, rng.choices(low, k=length))))
        texts.append("".join(rng.choices([*pieces, "<|im_end|>"], k=length)))
    return texts


def test_tokens_of_random_text_are_llama_cpps(ours, llama_cpp_ids):
    different = [
        text for text in random_texts(300) if ours.tokenizer.encode(text) != llama_cpp_ids(text)
    ]
    assert not different, [ascii(text) for text in different[:5]]


@pytest.mark.parametrize("domain", [english, chinese, code, worked_arithmetic])
def test_tokens_of_documents_are_llama_cpps(domain, ours, llama_cpp_ids):
    try:
        documents = list(domain().values())
    except AssetMissing as missing:
        pytest.skip(str(missing))
    some = documents[:: max(1, len(documents) // 12)]
    text = "\n".join(some)[:60_000]
    assert len(text) > 500
    assert ours.tokenizer.encode(text) == llama_cpp_ids(text)


def test_transformers_tokenizer_forgets_to_split_digits(path, ours, llama_cpp_ids):
    """Why the course builds the tokenizer itself: spaces before a digit come out otherwise.

    When this fails, `transformers` has been mended: take the remark out of models/pretrained.py.
    """
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for text in ("The fox doesn't jump.", "a  b"):
        assert theirs.encode(text) == llama_cpp_ids(text) == ours.tokenizer.encode(text)
    for text in ("a  12", "x =   1", "\n\n1"):
        assert theirs.encode(text) != llama_cpp_ids(text) == ours.tokenizer.encode(text)
