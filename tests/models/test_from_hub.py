"""The hub's way into the course's model, tried on a tiny Llama that is saved to a folder."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from course_utils.data.tokenizer import END, course_tokenizer
from course_utils.models import pretrained


def test_weights_and_tokenizer_of_a_hub_folder(tmp_path, monkeypatch):
    ours = course_tokenizer()
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    rope = {"rope_type": "default", "rope_theta": 12345.0}
    config = LlamaConfig(
        vocab_size=4096, **sizes, **heads, rope_parameters=rope, tie_word_embeddings=True
    )
    theirs = LlamaForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=ours.inner, eos_token=END).save_pretrained(tmp_path)
    monkeypatch.setattr(pretrained, "HUB_NAME", str(tmp_path))

    loaded = pretrained.smollm2(source="hub")

    assert loaded.model.config.rope_theta == 12345.0
    assert loaded.stop_ids == (ours.end_id,)
    ids = torch.tensor([loaded.tokenizer.encode("And it came to pass: 1234")])
    assert ids[0].tolist() == ours.encode("And it came to pass: 1234")
    with torch.no_grad():
        assert torch.allclose(loaded.model(ids), theirs(ids).logits, atol=1e-5)
