"""What a token of a model weighs, from the model's config.json: FLOPs of one token's forward pass.

A token goes through every weight matrix of the model once, and each parameter costs a multiplication and an addition:

    FLOPs per token = 2 x parameters in matrices (of the experts that a token activates)

Embeddings are looked up, which costs nothing; the output head multiplies by as many parameters, whether it shares
them with the embedding or not. Attention over the context comes on top and depends on its length; `context_gigaflops`
says how much. It is left out of the profile: quantities that a tenant cannot foresee make no price.

Known kinds of model (`GATED`, `PLAIN`) say whether a block's feed-forward part has three matrices or two. Others are
taken for gated ones, and a note says so. Sizes of the matrices follow the models' published configurations.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from tenantry.core.errors import TenantryError
from tenantry.core.rules_billing import ModelProfile

GATED = frozenset({
    "cohere", "cohere2", "deepseek_v2", "deepseek_v3", "exaone4", "gemma", "gemma2", "gemma3", "gemma3_text", "glm4",
    "gpt_oss", "granite", "granitemoe", "internlm2", "llama", "ministral", "mistral", "mistral3", "mixtral", "olmo",
    "olmo2", "olmoe", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen2_vl", "qwen2_5_vl", "qwen2_5_vl_text", "qwen3",
    "qwen3_moe", "seed_oss", "smollm3", "stablelm",
})  # fmt: skip
"""`model_type` of models whose feed-forward part has a gate: three matrices."""

PLAIN = frozenset({
    "bloom", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "opt", "phi", "starcoder2",
})  # fmt: skip
"""`model_type` of models whose feed-forward part has two matrices."""

_HIDDEN = ("hidden_size", "n_embd", "d_model")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num")
_INNER = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "d_ff")
_VOCABULARY = ("vocab_size", "padded_vocab_size")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_ACTIVE_EXPERTS = ("num_experts_per_tok", "experts_per_token", "num_experts_per_token")
_HEADED = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")

_OTHER_FILES = {
    "peft_type": "the configuration of an adapter (LoRA); an adapter's tokens weigh what its base model's do",
    "weight_map": "the index of a model's weights",
    "tokenizer_class": "the configuration of a tokenizer",
    "added_tokens_decoder": "the configuration of a tokenizer",
    "image_processor_type": "the configuration of an image processor",
    "_class_name": "the configuration of a diffusion model; those have no tokens",
    "eos_token_id": "the defaults of text generation",
}
"""What else lies beside a config.json, by a key that gives it away; looked at when the sizes are missing."""

_MAX = 10**9
_MAX_LAYERS = 10_000
Config = Mapping[str, Any]


class ProfileError(TenantryError):
    """A file that no profile can be made from; the message says what it is, or lacks."""


class Part(Struct, frozen=True, kw_only=True):
    """One addend: `formula` in numbers, and how many parameters a token meets there in all `layers`."""

    what: str
    formula: str
    layers: int
    parameters: int


class Derivation(Struct, frozen=True, kw_only=True):
    """A profile and how it came about. `context_gigaflops` is attention's cost per token and 1,000 of context."""

    model_type: str
    profile: ModelProfile
    parameters: int
    parts: tuple[Part, ...]
    context_gigaflops: float
    notes: tuple[str, ...] = ()


def derive(raw: bytes) -> Derivation:
    """Derive the profile from a config.json's bytes; raise ProfileError."""
    config, notes = _read(raw)
    kind = str(config.get("model_type", ""))
    if kind not in GATED | PLAIN:
        named = f'model_type "{kind}" is not known here' if kind.isprintable() and kind else "no model_type"
        notes.append(f"{named}: taken for a decoder with gated feed-forward blocks; compare with the model's card")
    parts = tuple(_parts(config, kind, notes))
    parameters = sum(part.parameters for part in parts)
    heads, head = _heads(config)
    return Derivation(
        model_type=kind or "unknown",
        profile=ModelProfile(gigaflops_per_token=_figure(2 * parameters)),
        parameters=parameters,
        parts=parts,
        context_gigaflops=_figure(4 * _need(config, *_LAYERS) * heads * head * 1_000),
        notes=tuple(notes),
    )


def _read(raw: bytes) -> tuple[Config, list[str]]:
    try:
        config = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProfileError(f"it is no JSON ({error}); a model's config.json is wanted") from None
    if not isinstance(config, dict):
        raise ProfileError("it holds no JSON object; a model's config.json is wanted")
    notes = []
    inner = next((config[key] for key in ("text_config", "llm_config") if isinstance(config.get(key), dict)), None)
    if inner is not None and _find(inner, _HIDDEN) is not None:
        config = {"architectures": config.get("architectures")} | {"model_type": config.get("model_type")} | inner
        notes.append("the language part alone is counted; images and sound come on top")
    missing = [names[0] for names in (_HIDDEN, _LAYERS, _HEADS) if _find(config, names) is None]
    if missing:
        for key, what in _OTHER_FILES.items():
            if key in config:
                raise ProfileError(f"it is {what}; the model's config.json is wanted")
        raise ProfileError(f"it has no {', no '.join(missing)}; a model's config.json is wanted")
    if config.get("is_encoder_decoder") is True:
        notes.append("an encoder with a decoder: counted as if it were a decoder alone; compare with the model's card")
    return config, notes


def _parts(config: Config, kind: str, notes: list[str]) -> Iterator[Part]:
    hidden, layers = _need(config, *_HIDDEN), _need(config, *_LAYERS)
    if layers > _MAX_LAYERS:
        raise ProfileError(f"{layers} layers are no model's; at most {_MAX_LAYERS}")
    yield _latent_attention(config, hidden, layers) if "kv_lora_rank" in config else _attention(config, hidden, layers)
    inner = _find(config, _INNER)
    if inner is None:
        inner = 4 * hidden
        if kind not in {"gpt2", "bloom", "falcon", "gptj", "gpt_neo"}:
            notes.append("no intermediate_size: taken for 4 x hidden_size")
    matrices = 2 if kind in PLAIN else 3
    sparse = _sparse_layers(config, layers)
    if layers > sparse:
        yield _part("feed-forward", [(matrices, hidden, inner)], layers - sparse)
    if sparse:
        yield from _experts(config, hidden, inner, matrices, sparse)
    if _has_head(config):
        tied = " (shared with the embedding)" if config.get("tie_word_embeddings") is True else ""
        yield _part(f"output head{tied}", [(1, hidden, _need(config, *_VOCABULARY))], 1)
    else:
        notes.append("no output head: the model's architecture names none")


def _attention(config: Config, hidden: int, layers: int) -> Part:
    heads, head = _heads(config)
    one = config.get("multi_query") is True and config.get("new_decoder_architecture") is not True
    kv_heads = 1 if one else (_find(config, _KV_HEADS) or heads)
    return _part("attention", [(2, hidden, heads * head), (2, hidden, kv_heads * head)], layers)


def _latent_attention(config: Config, hidden: int, layers: int) -> Part:
    """Return multi-head latent attention (DeepSeek): queries and keys go through matrices of low rank."""
    heads = _need(config, *_HEADS)
    plain, rotary = _need(config, "qk_nope_head_dim"), _need(config, "qk_rope_head_dim")
    value, rank = _need(config, "v_head_dim"), _need(config, "kv_lora_rank")
    query_rank = _find(config, ("q_lora_rank",))
    query = heads * (plain + rotary)
    queries = [(1, hidden, query_rank), (1, query_rank, query)] if query_rank else [(1, hidden, query)]
    keys = [(1, hidden, rank + rotary), (1, rank, heads * (plain + value))]
    return _part("latent attention", [*queries, *keys, (1, heads * value, hidden)], layers)


def _experts(config: Config, hidden: int, inner: int, matrices: int, layers: int) -> Iterator[Part]:
    experts, active = _need(config, *_EXPERTS), _need(config, *_ACTIVE_EXPERTS)
    if active > experts:
        raise ProfileError(f"it activates {active} experts of {experts}")
    width = _find(config, ("moe_intermediate_size",)) or inner
    yield _part(f"{active} of {experts} experts", [(active * matrices, hidden, width)], layers)
    yield _part("router", [(1, hidden, experts)], layers)
    shared = _find(config, ("shared_expert_intermediate_size",)) or width * (_find(config, ("n_shared_experts",)) or 0)
    if shared:
        yield _part("shared expert", [(matrices, hidden, shared)], layers)


def _sparse_layers(config: Config, layers: int) -> int:
    """Return how many layers have experts."""
    if (_find(config, _EXPERTS) or 0) < 2 or _find(config, _ACTIVE_EXPERTS) is None:
        return 0
    dense = config.get("mlp_only_layers") or []
    if not isinstance(dense, list):
        raise ProfileError("mlp_only_layers is no list")
    first = _find(config, ("first_k_dense_replace",)) or 0
    step = _find(config, ("decoder_sparse_step",)) or 1
    return sum(1 for layer in range(layers) if layer >= first and layer not in dense and (layer + 1) % step == 0)


def _heads(config: Config) -> tuple[int, int]:
    """Return how many query heads there are, and the size of one."""
    heads = _need(config, *_HEADS)
    if "kv_lora_rank" in config:
        return heads, (_need(config, "qk_nope_head_dim") + _need(config, "qk_rope_head_dim"))
    return heads, _find(config, ("head_dim",)) or _need(config, *_HIDDEN) // heads


def _has_head(config: Config) -> bool:
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures:
        return True
    return any(str(name).endswith(_HEADED) for name in architectures)


def _part(what: str, matrices: list[tuple[int, int, int]], layers: int) -> Part:
    sizes = " + ".join(f"{count} x {rows} x {columns}" if count > 1 else f"{rows} x {columns}"
                       for count, rows, columns in matrices)  # fmt: skip
    each = sum(math.prod(matrix) for matrix in matrices)
    return Part(what=what, formula=sizes, layers=layers, parameters=layers * each)


def _find(config: Config, names: tuple[str, ...]) -> int | None:
    """Return the first of the names that has a value; raise ProfileError for one that is no sensible number."""
    for name in names:
        value = config.get(name)
        if value is not None:
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX:
                raise ProfileError(f"{name} is no whole number from 0 to {_MAX}")
            return value or None
    return None


def _need(config: Config, *names: str) -> int:
    value = _find(config, names)
    if value is None:
        raise ProfileError(f"it has no {names[0]}, which its model_type needs")
    return value


def _figure(flops: int) -> float:
    """Return GFLOPs with four significant digits: what is left out weighs more."""
    return float(f"{flops / 1e9:.4g}")
