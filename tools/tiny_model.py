"""Write a tiny Llama (2.5 million random weights) with tokenizer and chat template, for tests of real vLLM on CPU.

    python tools/tiny_model.py FOLDER [--adapters FOLDER]

`--adapters` writes three LoRA adapters too, each in a folder of its name (ADAPTERS). Needs the
standard library alone. The same folders come out each time, bit for bit. What the model writes means
nothing, but it is readable and never ends early: one dimension of the residual stream is kept
constant, and the output layer uses it to allow lower-case letters and spaces only, so every answer is
text and runs to its `max_tokens`. An adapter changes which letters come, and no more than that.
"""

from __future__ import annotations  # array[float] is a type for checkers only before Python 3.12

import argparse
import json
import random
import struct
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SEED = 0
CONTEXT_TOKENS = 2048
HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS = 256, 512, 4, 4, 2
HEAD_DIM = 64  # vLLM's attention on CPU takes 32 to 256
DEVIATION = 0.05
CONSTANT = 8.0
"""Value of the constant dimension, far above what the layers add to the others."""
ALLOW = 4.0
"""Weight of that dimension for tokens that may be written, and its negative for all others."""

ADAPTERS = ("lora-0", "lora-1", "lora-2")
RANK = 8
ADAPTER_DEVIATION = 0.2

SPECIALS = ("<|bos|>", "<|eos|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>")
WRITABLE = frozenset(b"abcdefghijklmnopqrstuvwxyz ")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|eos|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

Shape = tuple[int, ...]


def main() -> int:
    """Write the model into the folder named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="made if it is not there")
    parser.add_argument("--adapters", type=Path, metavar="FOLDER", help="write LoRA adapters here, too")
    arguments = parser.parse_args()
    write(arguments.folder)
    if arguments.adapters is not None:
        write_adapters(arguments.adapters)
    return 0


def write(folder: Path) -> None:
    """Write config.json, generation_config.json, model.safetensors, tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {letter: byte for byte, letter in enumerate(_byte_letters())}
    ids = {token: len(vocabulary) + index for index, token in enumerate(SPECIALS)}
    _write_json(folder / "config.json", _config(len(vocabulary) + len(ids), ids))
    _write_json(folder / "generation_config.json", {"eos_token_id": ids["<|eos|>"], "bos_token_id": ids["<|bos|>"]})
    _write_json(folder / "tokenizer.json", _tokenizer(vocabulary, ids))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|bos|>",
            "eos_token": "<|eos|>",
            "pad_token": "<|pad|>",
            "model_max_length": CONTEXT_TOKENS,
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
        },
    )
    _write_safetensors(folder / "model.safetensors", _weights(len(vocabulary) + len(ids)))


def write_adapters(folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors of each adapter."""
    for index, name in enumerate(ADAPTERS):
        (folder / name).mkdir(parents=True, exist_ok=True)
        _write_json(
            folder / name / "adapter_config.json",
            {
                "peft_type": "LORA",
                "task_type": "CAUSAL_LM",
                "base_model_name_or_path": "tiny-llama",
                "r": RANK,
                "lora_alpha": 2 * RANK,
                "lora_dropout": 0.0,
                "bias": "none",
                "target_modules": ["q_proj", "v_proj"],
                "modules_to_save": None,
                "use_rslora": False,
                "use_dora": False,
            },
        )
        _write_safetensors(folder / name / "adapter_model.safetensors", _adapter_weights(index))


def _byte_letters() -> list[str]:
    """Return the 256 characters by which GPT-2's byte-level tokenizers write the 256 bytes."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


def _config(vocabulary_size: int, ids: dict[str, int]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "vocab_size": vocabulary_size,
        "max_position_embeddings": CONTEXT_TOKENS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": ids["<|bos|>"],
        "eos_token_id": ids["<|eos|>"],
        "pad_token_id": ids["<|pad|>"],
    }


def _tokenizer(vocabulary: dict[str, int], ids: dict[str, int]) -> dict[str, Any]:
    """Return a byte-level BPE tokenizer without merges: one token per byte, and the special ones."""
    added = [
        {"id": number, "content": token, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for token, number in ids.items()
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False, "byte_fallback": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {**model, "vocab": vocabulary, "merges": []},
    }


def _weights(vocabulary_size: int) -> Iterator[tuple[str, Shape, array[float]]]:
    """Yield name, shape and values of each tensor, row by row."""
    rng = random.Random(SEED)

    def noise(rows: int, columns: int) -> array[float]:
        return _noise(rng, rows * columns, DEVIATION)

    def without_constant(rows: int, columns: int) -> array[float]:
        # Row 0 writes the constant dimension: nothing may be added to it.
        values = noise(rows, columns)
        values[:columns] = array("f", bytes(4 * columns))
        return values

    embeddings, head = noise(vocabulary_size, HIDDEN), noise(vocabulary_size, HIDDEN)
    for token in range(vocabulary_size):
        embeddings[token * HIDDEN] = CONSTANT
        head[token * HIDDEN] = ALLOW if token in WRITABLE else -ALLOW
    ones = array("f", [1.0] * HIDDEN)
    yield "model.embed_tokens.weight", (vocabulary_size, HIDDEN), embeddings
    yield "lm_head.weight", (vocabulary_size, HIDDEN), head
    yield "model.norm.weight", (HIDDEN,), ones
    queries, keys = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm.weight", (HIDDEN,), ones
        yield f"{at}.post_attention_layernorm.weight", (HIDDEN,), ones
        yield f"{at}.self_attn.q_proj.weight", (queries, HIDDEN), noise(queries, HIDDEN)
        yield f"{at}.self_attn.k_proj.weight", (keys, HIDDEN), noise(keys, HIDDEN)
        yield f"{at}.self_attn.v_proj.weight", (keys, HIDDEN), noise(keys, HIDDEN)
        yield f"{at}.self_attn.o_proj.weight", (HIDDEN, queries), without_constant(HIDDEN, queries)
        yield f"{at}.mlp.gate_proj.weight", (INTERMEDIATE, HIDDEN), noise(INTERMEDIATE, HIDDEN)
        yield f"{at}.mlp.up_proj.weight", (INTERMEDIATE, HIDDEN), noise(INTERMEDIATE, HIDDEN)
        yield f"{at}.mlp.down_proj.weight", (HIDDEN, INTERMEDIATE), without_constant(HIDDEN, INTERMEDIATE)


def _adapter_weights(index: int) -> Iterator[tuple[str, Shape, array[float]]]:
    """Yield the two low-rank factors of each layer's query and value projections, by PEFT's names."""
    rng = random.Random(f"adapter {index}")
    for layer in range(LAYERS):
        for module, rows in (("q_proj", HEADS * HEAD_DIM), ("v_proj", KV_HEADS * HEAD_DIM)):
            at = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            yield f"{at}.lora_A.weight", (RANK, HIDDEN), _noise(rng, RANK * HIDDEN, ADAPTER_DEVIATION)
            yield f"{at}.lora_B.weight", (rows, RANK), _noise(rng, rows * RANK, ADAPTER_DEVIATION)


def _noise(rng: random.Random, count: int, deviation: float) -> array[float]:
    return array("f", (rng.gauss(0.0, deviation) for _ in range(count)))


def _write_safetensors(path: Path, tensors: Iterator[tuple[str, Shape, array[float]]]) -> None:
    """Write the format: length of the header (8 bytes), the header (JSON), then all values."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blocks: list[bytes] = []
    offset = 0
    for name, shape, values in tensors:
        block = _bfloat16(values)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + len(block)]}
        offset += len(block)
        blocks.append(block)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(b"".join([struct.pack("<Q", len(text)), text, *blocks]))


def _bfloat16(values: array[float]) -> bytes:
    """Return values as bfloat16: the upper half of each float32."""
    if sys.byteorder != "little":
        values = array("f", values)
        values.byteswap()
    raw = values.tobytes()
    half = bytearray(len(raw) // 2)
    half[0::2], half[1::2] = raw[2::4], raw[3::4]
    return bytes(half)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
