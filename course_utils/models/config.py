"""The shape of a decoder-only model, as a frozen dataclass with Hugging Face's key names.

A config says everything about a model but the values of its weights. Wrong values are refused here,
once, so that the model code needs no checks.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

from course_utils.attention.config import LinearAttentionConfig, MLAConfig, check_layer_types
from course_utils.moe import MoEConfig

NESTED = {"moe": MoEConfig, "mla": MLAConfig, "linear": LinearAttentionConfig}
OPTIONAL = (*NESTED, "sliding_window", "layer_types")


@dataclass(frozen=True)
class ModelConfig:
    """A decoder of the Llama and Qwen3 family. Raises ValueError on values that cannot be.

    head_dim 0 means hidden_size / num_attention_heads. `use_qk_norm` is Qwen3's RMSNorm on every
    query and key head; Llama and SmolLM2 have none. With `moe`, the layers from its
    `first_k_dense_replace` on have experts in place of the MLP; None is a dense model.

    `layer_types` has "full_attention", "sliding_attention" or "linear_attention" for every layer
    (None: all full). Full attention is grouped-query attention, or with `mla` latent attention;
    sliding attention is grouped-query attention over the last `sliding_window` tokens; linear
    attention is described by `linear`.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int = 0
    max_position_embeddings: int = 1024
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    tie_word_embeddings: bool = True
    use_qk_norm: bool = True
    moe: MoEConfig | None = None
    mla: MLAConfig | None = None
    linear: LinearAttentionConfig | None = None
    sliding_window: int | None = None
    layer_types: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is int and (isinstance(value, bool) or not isinstance(value, int)):
                raise ValueError(f"{field.name} is {value!r}: it must be a whole number")
            if field.type is int and value < (0 if field.name == "head_dim" else 1):
                raise ValueError(f"{field.name} is {value}: it must be at least 1")
        if self.rms_norm_eps <= 0 or self.rope_theta <= 0:
            raise ValueError(
                f"rms_norm_eps is {self.rms_norm_eps} and rope_theta {self.rope_theta}: "
                "both must be positive"
            )
        self._check_heads()
        self._check_nested()
        self._check_moe()
        self._check_layers()

    def _check_heads(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads {self.num_key_value_heads} does not divide "
                f"num_attention_heads {self.num_attention_heads}: every group of query heads "
                "shares one key-value head"
            )
        if not self.head_dim:
            if self.hidden_size % self.num_attention_heads:
                raise ValueError(
                    f"num_attention_heads {self.num_attention_heads} does not divide hidden_size "
                    f"{self.hidden_size}: choose another number of heads or give head_dim"
                )
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_attention_heads)
        if self.head_dim % 2:
            raise ValueError(f"head_dim is {self.head_dim}: RoPE needs an even number")

    def _check_nested(self) -> None:
        for name, kind in NESTED.items():
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                article = "a" if kind is LinearAttentionConfig else "an"
                raise ValueError(
                    f"{name} is {value!r}: it must be {article} {kind.__name__}, or None"
                )

    def _check_layers(self) -> None:
        window, types = self.sliding_window, self.layer_types
        if window is not None and (isinstance(window, bool) or not isinstance(window, int)):
            raise ValueError(f"sliding_window is {window!r}: it must be a whole number, or None")
        if window is not None and window < 1:
            raise ValueError(f"sliding_window is {window}: it must be at least 1, or None")
        if types is not None:
            object.__setattr__(self, "layer_types", tuple(types))
        given = self.linear is not None
        check_layer_types(self.layer_types, self.num_hidden_layers, window, given)
        if self.mla is not None and types is not None and "full_attention" not in types:
            raise ValueError("mla is given, but layer_types has no 'full_attention'")

    def layer_type(self, layer: int) -> str:
        """The kind of attention of one layer, such as "full_attention"."""
        return self.layer_types[layer] if self.layer_types else "full_attention"

    def _check_moe(self) -> None:
        if self.moe is None:
            return
        if self.moe.first_k_dense_replace > self.num_hidden_layers:
            raise ValueError(
                f"first_k_dense_replace {self.moe.first_k_dense_replace} is more than the "
                f"{self.num_hidden_layers} layers there are"
            )
        if self.moe.num_hash_layers:
            raise ValueError(
                f"num_hash_layers is {self.moe.num_hash_layers}: this decoder gives its layers no "
                "token ids; set it to 0"
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """Build from a dict; an unknown or missing key raises ValueError that names it."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(
                f"unknown config key {unknown[0]!r}: known are {', '.join(sorted(known))}"
            )
        nested = {
            name: kind.from_dict(values[name])
            for name, kind in NESTED.items()
            if isinstance(values.get(name), dict)
        }
        try:
            return cls(**(values | nested))
        except TypeError as error:
            raise ValueError(f"incomplete config: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """All keys and values, ready for JSON; of what the model does not have, no key."""
        values = asdict(self)
        if self.layer_types is not None:
            values["layer_types"] = list(self.layer_types)
        return {k: v for k, v in values.items() if v is not None or k not in OPTIONAL}
