"""A model's weight from its config.json: known models, unknown ones, and files that are something else."""

import json
import math
from typing import Any

import pytest
from tenantry.core.billing.profile import Derivation, ProfileError, derive

LLAMA_3_8B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    "tie_word_embeddings": False,
}  # fmt: skip
MISTRAL_7B = LLAMA_3_8B | {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "vocab_size": 32000}
MIXTRAL_8X7B = MISTRAL_7B | {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
QWEN_25_05B = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864,
    "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936,
    "tie_word_embeddings": True,
}  # fmt: skip
GEMMA_2_2B = {
    "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "hidden_size": 2304, "intermediate_size": 9216,
    "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 256000,
}  # fmt: skip
QWEN3_30B_A3B = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 2048,
    "intermediate_size": 6144, "moe_intermediate_size": 768, "num_hidden_layers": 48, "num_attention_heads": 32,
    "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 151936, "num_experts": 128, "num_experts_per_tok": 8,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "tie_word_embeddings": False,
}  # fmt: skip
DEEPSEEK_V3 = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "hidden_size": 7168,
    "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_hidden_layers": 61, "first_k_dense_replace": 3,
    "num_attention_heads": 128, "num_key_value_heads": 128, "n_routed_experts": 256, "n_shared_experts": 1,
    "num_experts_per_tok": 8, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": 129280,
}  # fmt: skip
GPT_2 = {
    "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12,
    "n_inner": None, "vocab_size": 50257,
}  # fmt: skip


def of(config: object) -> Derivation:
    return derive(json.dumps(config).encode())


@pytest.mark.parametrize(
    ("config", "active_billions", "gigaflops"),
    [
        # What the model's card calls its (active) parameters, without an embedding that is looked up.
        (LLAMA_3_8B, 8.03 - 0.525, 15.01),
        (MISTRAL_7B, 7.24 - 0.131, 14.22),
        (MIXTRAL_8X7B, 12.88 - 0.131, 25.5),
        (QWEN_25_05B, 0.494, 0.9878),
        (GEMMA_2_2B, 2.614, 5.229),
        (QWEN3_30B_A3B, 3.35 - 0.311, 6.085),
        (DEEPSEEK_V3, 37.5 - 0.927, 73.24),
        (GPT_2, 0.1235, 0.2471),
    ],
    ids=["llama", "mistral", "mixtral", "qwen2", "gemma2", "qwen3_moe", "deepseek_v3", "gpt2"],
)
def test_known_models_weigh_twice_their_active_parameters(
    config: dict[str, Any], active_billions: float, gigaflops: float
) -> None:
    made = of(config)
    assert math.isclose(made.parameters / 1e9, active_billions, rel_tol=0.01)
    assert math.isclose(made.profile.gigaflops_per_token, gigaflops, rel_tol=0.001)
    assert made.notes == ()


def test_the_derivation_shows_each_matrix() -> None:
    shown = [(part.what, part.formula, part.layers, part.parameters) for part in of(MIXTRAL_8X7B).parts]
    assert shown == [
        ("attention", "2 x 4096 x 4096 + 2 x 4096 x 1024", 32, 1_342_177_280),
        ("2 of 8 experts", "6 x 4096 x 14336", 32, 11_274_289_152),
        ("router", "4096 x 8", 32, 1_048_576),
        ("output head", "4096 x 32000", 1, 131_072_000),
    ]


def test_a_tied_head_is_multiplied_too() -> None:
    tied, apart = of(QWEN_25_05B), of(QWEN_25_05B | {"tie_word_embeddings": False})
    assert tied.parameters == apart.parameters
    assert tied.parts[-1].what == "output head (shared with the embedding)"


def test_the_first_layers_of_a_mixture_may_be_dense() -> None:
    assert {part.what: part.layers for part in of(DEEPSEEK_V3).parts} == {
        "latent attention": 61, "feed-forward": 3, "8 of 256 experts": 58, "router": 58, "shared expert": 58,
        "output head": 1,
    }  # fmt: skip
    every_second = QWEN3_30B_A3B | {"decoder_sparse_step": 2, "mlp_only_layers": [1, 3]}
    layers = {part.what: part.layers for part in of(every_second).parts}
    assert (layers["8 of 128 experts"], layers["feed-forward"]) == (22, 26)


def test_attention_over_the_context_is_told_beside_the_profile() -> None:
    assert of(LLAMA_3_8B).context_gigaflops == 0.5243


def test_an_unknown_kind_is_taken_for_a_gated_decoder_and_says_so() -> None:
    made = of(LLAMA_3_8B | {"model_type": "brand_new"})
    assert made.profile == of(LLAMA_3_8B).profile
    (note,) = made.notes
    assert note.startswith('model_type "brand_new" is not known here: taken for a decoder with gated feed-forward')


def test_a_models_language_part_is_counted_where_it_sees_images_too() -> None:
    text = {key: value for key, value in GEMMA_2_2B.items() if key != "architectures"} | {"model_type": "gemma3_text"}
    both = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": text}
    made = of(both)
    assert made.parameters == of(GEMMA_2_2B).parameters
    assert made.notes == ("the language part alone is counted; images and sound come on top",)


def test_a_model_for_embeddings_has_no_head() -> None:
    made = of(QWEN_25_05B | {"architectures": ["Qwen2Model"]})
    assert [part.what for part in made.parts] == ["attention", "feed-forward"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"not json", "it is no JSON"),
        (b"\xff\xfe", "it is no JSON"),
        (b"[1]", "it holds no JSON object"),
        (b"{}", "it has no hidden_size, no num_hidden_layers, no num_attention_heads; a model's config.json"),
        (b'{"peft_type": "LORA", "r": 8}', "it is the configuration of an adapter"),
        (b'{"weight_map": {}}', "it is the index of a model's weights"),
        (b'{"tokenizer_class": "X"}', "it is the configuration of a tokenizer"),
        (b'{"bos_token_id": 1, "eos_token_id": 2}', "it is the defaults of text generation"),
    ],
)
def test_another_file_is_told_apart(raw: bytes, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        derive(raw)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "4096"}, "hidden_size is no whole number"),
        ({"hidden_size": True}, "hidden_size is no whole number"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is no whole number"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers is no whole number"),
        ({"num_hidden_layers": 10**8}, "100000000 layers are no model's"),
        ({"vocab_size": None}, "it has no vocab_size"),
        ({"num_experts": 4, "num_experts_per_tok": 8}, "it activates 8 experts of 4"),
        ({"num_experts": 4, "num_experts_per_tok": 2, "mlp_only_layers": 3}, "mlp_only_layers is no list"),
        ({"kv_lora_rank": 512}, "it has no qk_nope_head_dim"),
    ],
)
def test_sizes_that_make_no_sense_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        of(LLAMA_3_8B | changes)
