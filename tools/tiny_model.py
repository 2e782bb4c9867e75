"""Write a tiny random-weight Llama with tokenizer and chat template: a model that real vLLM can serve on a CPU.

    <vllm environment>/bin/python tools/tiny_model.py FOLDER

2.5 million parameters in bfloat16, a byte-level tokenizer, context 2,048. It answers nonsense, fast: what is tested is
the engine around it. Seeded, so every run writes the same weights. Needs torch, safetensors and tokenizers, which the
vllm environment has (`python3 tools/env.py vllm`).
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

HIDDEN, MLP, LAYERS, HEADS, KV_HEADS = 256, 512, 4, 4, 2
HEAD = 64  # vLLM's CPU attention takes head sizes from 32 to 256
VOCABULARY = 320
SPECIAL = ("<|bos|>", "<|eos|>", "<|pad|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|eos|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def write_tokenizer(folder: Path) -> dict[str, int]:
    """Write tokenizer files: one token a byte, plus the special ones; return the special tokens' ids."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    bos, eos, pad = SPECIAL
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos,
        "pad_token": pad,
        "model_max_length": 2048,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    return {name: tokenizer.token_to_id(name) for name in SPECIAL}


def write_config(folder: Path, special: dict[str, int]) -> None:
    """Write config.json as Transformers' LlamaConfig reads it."""
    bos, eos, pad = (special[name] for name in SPECIAL)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "pad_token_id": pad,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def write_weights(folder: Path, seed: int = 0) -> None:
    """Write model.safetensors with small random weights."""
    generator = torch.Generator().manual_seed(seed)

    def weight(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * 0.05).to(torch.bfloat16)

    def norm() -> torch.Tensor:
        return torch.ones(HIDDEN, dtype=torch.bfloat16)

    tensors = {
        "model.embed_tokens.weight": weight(VOCABULARY, HIDDEN),
        "lm_head.weight": weight(VOCABULARY, HIDDEN),
        "model.norm.weight": norm(),
    }
    shapes = {
        "self_attn.q_proj": (HEADS * HEAD, HIDDEN),
        "self_attn.k_proj": (KV_HEADS * HEAD, HIDDEN),
        "self_attn.v_proj": (KV_HEADS * HEAD, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HEADS * HEAD),
        "mlp.gate_proj": (MLP, HIDDEN),
        "mlp.up_proj": (MLP, HIDDEN),
        "mlp.down_proj": (HIDDEN, MLP),
    }
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        tensors |= {f"{prefix}{name}.weight": weight(*shape) for name, shape in shapes.items()}
        tensors |= {f"{prefix}{name}.weight": norm() for name in ("input_layernorm", "post_attention_layernorm")}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def main(folder: Path) -> int:
    """Write the model."""
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, write_tokenizer(folder))
    write_weights(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
