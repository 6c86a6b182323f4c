"""The shapes of latent, sparse and linear attention, as frozen dataclasses.

Keys are those of the configs that DeepSeek-V2, V3 and V3.2, Qwen3-Next, Kimi Linear and
MiniMax-Text-01 publish; the model's config holds them nested, under `mla` and `linear`. Wrong
values are refused here. Left out: biases of the latent projections, which no published
DeepSeek model has.
"""

from dataclasses import dataclass, fields
from typing import Any

LAYER_TYPES = ("full_attention", "sliding_attention", "linear_attention")
LINEAR_KINDS = ("gated_deltanet", "kda", "lightning")


@dataclass(frozen=True)
class YarnConfig:
    """YaRN, which stretches RoPE to `factor` times the context that the model was trained on.

    Frequencies that turn more than `beta_fast` times within `original_max_position_embeddings`
    stay, those that turn less than `beta_slow` times are divided by `factor`, with a ramp between.
    `mscale_all_dim` sharpens the softmax and `mscale` / `mscale_all_dim` scales cosine and sine
    (DeepSeek's `rope_scaling`; arXiv 2309.00071 section 3).
    """

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 0.0

    def __post_init__(self) -> None:
        _whole(self, "original_max_position_embeddings")
        if self.factor < 1:
            raise ValueError(f"factor is {self.factor}: YaRN stretches by 1 or more")
        if not 0 < self.beta_slow < self.beta_fast:
            raise ValueError(
                f"beta_slow {self.beta_slow} must be > 0 and below beta_fast {self.beta_fast}"
            )
        if self.mscale < 0 or self.mscale_all_dim < 0:
            raise ValueError(
                f"mscale is {self.mscale} and mscale_all_dim {self.mscale_all_dim}: "
                "neither may be negative"
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "YarnConfig":
        """Build from a published `rope_scaling`, whose `type` must be "yarn"."""
        kind = values.get("rope_type", values.get("type", "yarn"))
        if kind != "yarn":
            raise ValueError(f"rope_scaling type is {kind!r}: only 'yarn' is built here")
        names = ("rope_type", "type", "rope_theta")  # the last is a key of the model here
        return _build(cls, {key: value for key, value in values.items() if key not in names})


@dataclass(frozen=True)
class IndexerConfig:
    """The lightning indexer of DeepSeek-V3.2: `index_n_heads` heads of `index_head_dim` channels
    choose the `index_topk` tokens that attention reads."""

    index_n_heads: int
    index_head_dim: int
    index_topk: int

    def __post_init__(self) -> None:
        for field in fields(self):
            _whole(self, field.name)
        if self.index_head_dim % 2:
            raise ValueError(f"index_head_dim is {self.index_head_dim}: RoPE needs an even number")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "IndexerConfig":
        """Build from a dict; an unknown or missing key raises ValueError that names it."""
        return _build(cls, values)


@dataclass(frozen=True)
class MLAConfig:
    """Multi-head latent attention. Raises ValueError on values that cannot be.

    Keys and values of all heads are rebuilt from one latent of `kv_lora_rank` numbers a token; a
    query and key head has `qk_nope_head_dim` channels without and `qk_rope_head_dim` with RoPE, a
    value head `v_head_dim`. `q_lora_rank` None: queries are not compressed (V2-Lite, Kimi Linear).
    With `index`, an indexer chooses the tokens that are read (DSA).
    """

    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    q_lora_rank: int | None = None
    rope_scaling: YarnConfig | None = None
    index: IndexerConfig | None = None

    def __post_init__(self) -> None:
        names = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
        for name in (*names, *(["q_lora_rank"] if self.q_lora_rank is not None else [])):
            _whole(self, name)
        if self.qk_rope_head_dim % 2:
            raise ValueError(
                f"qk_rope_head_dim is {self.qk_rope_head_dim}: RoPE needs an even number"
            )
        _instance(self, "rope_scaling", YarnConfig)
        _instance(self, "index", IndexerConfig)
        if self.index and self.index.index_head_dim < self.qk_rope_head_dim:
            raise ValueError(
                f"index_head_dim {self.index.index_head_dim} is less than qk_rope_head_dim "
                f"{self.qk_rope_head_dim}: the indexer's heads carry the same RoPE channels"
            )

    @property
    def qk_head_dim(self) -> int:
        """Channels of a query and key head: without RoPE, then with."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "MLAConfig":
        """Build from a dict; an unknown or missing key raises ValueError that names it."""
        values = _nested(values, rope_scaling=YarnConfig, index=IndexerConfig)
        return _build(cls, values)


@dataclass(frozen=True)
class LinearAttentionConfig:
    """Attention with a state of fixed size, in the layers of type "linear_attention".

    kind: "gated_deltanet" (Qwen3-Next), "kda" (Kimi Linear) or "lightning" (MiniMax-Text-01). Keys
    are Qwen3-Next's: `linear_num_key_heads` heads of `linear_key_head_dim` channels, each read by a
    group of the `linear_num_value_heads` heads of `linear_value_head_dim`. KDA and lightning have
    as many key as value heads, equally wide. A short convolution over `linear_conv_kernel_dim`
    tokens goes before (None: 4 tokens, and none, 0, for lightning).
    """

    kind: str
    linear_num_key_heads: int
    linear_num_value_heads: int
    linear_key_head_dim: int
    linear_value_head_dim: int
    linear_conv_kernel_dim: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in LINEAR_KINDS:
            raise ValueError(f"kind is {self.kind!r}: it must be one of {', '.join(LINEAR_KINDS)}")
        if self.linear_conv_kernel_dim is None:
            width = 0 if self.kind == "lightning" else 4
            object.__setattr__(self, "linear_conv_kernel_dim", width)
        for field in fields(self)[1:]:
            _whole(self, field.name, least=0 if field.name == "linear_conv_kernel_dim" else 1)
        if self.linear_num_value_heads % self.linear_num_key_heads:
            raise ValueError(
                f"linear_num_key_heads {self.linear_num_key_heads} does not divide "
                f"linear_num_value_heads {self.linear_num_value_heads}: every group of value heads "
                "shares one key head"
            )
        self._check_kind()

    def _check_kind(self) -> None:
        keys = (self.linear_num_key_heads, self.linear_key_head_dim)
        values = (self.linear_num_value_heads, self.linear_value_head_dim)
        if self.kind != "gated_deltanet" and keys != values:
            raise ValueError(
                f"{self.kind} has key heads {keys} and value heads {values} (number, width): "
                "they must be the same"
            )
        if (self.linear_conv_kernel_dim == 0) != (self.kind == "lightning"):
            raise ValueError(
                f"linear_conv_kernel_dim is {self.linear_conv_kernel_dim}: lightning attention has "
                "none (0), the others need 1 or more; leave it out"
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "LinearAttentionConfig":
        """Build from a dict; an unknown or missing key raises ValueError that names it."""
        return _build(cls, values)


def check_layer_types(
    layer_types: tuple[str, ...] | None, layers: int, sliding_window: int | None, linear: bool
) -> None:
    """Raise ValueError unless the list fits the model: one known word a layer, with its sizes."""
    found = layer_types or ()
    if layer_types is not None and len(layer_types) != layers:
        raise ValueError(f"layer_types has {len(layer_types)} entries: there are {layers} layers")
    if unknown := [word for word in found if word not in LAYER_TYPES]:
        raise ValueError(
            f"layer_types has {unknown[0]!r}: it must be one of {', '.join(LAYER_TYPES)}"
        )
    needs = {
        "sliding_attention": ("sliding_window", sliding_window is not None),
        "linear_attention": ("linear", linear),
    }
    for word, (key, given) in needs.items():
        if (word in found) != given:
            other = "is missing" if word in found else "is given"
            has = "has" if word in found else "has no"
            raise ValueError(f"{key} {other}, but layer_types {has} {word!r}: they go together")


def _whole(config: Any, name: str, least: int = 1) -> None:
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r}: it must be a whole number >= {least}")


def _instance(config: Any, name: str, kind: type) -> None:
    value = getattr(config, name)
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"{name} is {value!r}: it must be of class {kind.__name__}, or None")


def _nested(values: dict[str, Any], **kinds: Any) -> dict[str, Any]:
    """`values` with the dicts under some names made into configs."""
    found = {
        name: kind.from_dict(values[name])
        for name, kind in kinds.items()
        if isinstance(values.get(name), dict)
    }
    return values | found


def _build(cls: type, values: dict[str, Any]) -> Any:
    known = {field.name for field in fields(cls)}
    if unknown := sorted(set(values) - known):
        raise ValueError(f"unknown {cls.__name__} key {unknown[0]!r}: known are {sorted(known)}")
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"incomplete {cls.__name__}: {error}") from None
