"""The shipped dense checkpoint: what it says of itself is so, and `transformers` can run it."""

import json

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from course_utils.accounting.ledger import dense_parameters
from course_utils.data.assets import AssetMissing
from course_utils.data.corpus import load_corpus
from course_utils.data.texts import DOMAINS
from course_utils.data.tokenizer import course_tokenizer
from course_utils.generation import generate
from course_utils.models import shipped
from course_utils.models.checkpoints import SHIPPED, read_header
from course_utils.records import load_record
from course_utils.records.checkpoint import recipe
from course_utils.records.dense import dense_config
from course_utils.training import evaluate


@pytest.fixture(scope="module")
def dense():
    return shipped("dense")


def test_it_is_what_its_recipe_says(dense):
    lineage = read_header(SHIPPED / "dense.safetensors")["lineage"]
    assert dense.config == dense_config()
    assert dense.config.vocab_size == course_tokenizer().vocab_size
    assert dense.count_parameters() == sum(dense_parameters(dense.config.to_dict()).values())
    last = load_record("c02_dense").rows[-1]
    assert lineage["recipe"] == "course_utils.records.dense"
    assert (lineage["tokens"], lineage["seed"]) == (recipe().tokens, recipe().seed)
    assert lineage["tokens"] == last["tokens"] and recipe().steps == last["step"]
    assert lineage["validation_bits_per_byte"] == last["bits_per_byte"]
    assert last["corpus"] in lineage["data"]
    assert json.dumps(lineage)


def test_all_shipped_checkpoints_are_small():
    assert sum(path.stat().st_size for path in SHIPPED.glob("*.safetensors")) < 40_000_000


def test_its_loss_is_the_recorded_one(dense):
    try:
        corpus = load_corpus(tuple(DOMAINS))
    except AssetMissing as missing:
        pytest.skip(f"the corpus is not whole: {missing}")
    # 8 windows a domain of 256 ids; the record has 64, so parts of the text differ
    results = evaluate(dense, corpus, course_tokenizer().token_bytes(), windows=8)
    last = load_record("c02_dense").rows[-1]
    assert results["all"].bits_per_byte == pytest.approx(last["bits_per_byte"], abs=0.1)
    for domain in DOMAINS:
        recorded = last[f"{domain}_bits"]
        assert results[domain].bits_per_byte == pytest.approx(recorded, rel=0.2), domain


def test_transformers_gives_the_same_logits(dense):
    values = dense.config.to_dict()
    values.pop("use_qk_norm")
    rope = {"rope_type": "default", "rope_theta": values.pop("rope_theta")}
    theirs = Qwen3ForCausalLM(Qwen3Config(**values, rope_parameters=rope)).eval()
    theirs.load_state_dict(dense.state_dict())
    ids = torch.tensor([course_tokenizer().encode("In the beginning God created the heaven and")])
    with torch.no_grad():
        torch.testing.assert_close(dense(ids), theirs(ids).logits, rtol=0, atol=1e-3)


def test_it_goes_on_in_the_same_script(dense):
    tokenizer = course_tokenizer()

    def answer(prompt: str) -> str:
        ids = torch.tensor([tokenizer.encode(prompt)])
        return tokenizer.decode(generate(dense, ids, 24)[0].tolist())

    chinese = answer("却说曹操")
    assert sum("\u4e00" <= sign <= "\u9fff" for sign in chinese) > len(chinese) / 2
    english = answer("And the LORD said unto")
    assert english.isascii() and sum(sign.isalpha() or sign == " " for sign in english) > 30
    assert answer("Q: 4 + 3\n").startswith("4 + 3 = 7, write 7\nA: 7\n")
