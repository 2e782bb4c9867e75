"""The prefix cache: which leading blocks of a prompt need no prefill.

As in vLLM, a block's key is a hash chained over all blocks before it and starts from the request's
`cache_salt`. Two prompts share blocks only if they begin alike *and* carry the same salt, which is
what keeps one tenant from measuring another's prompts by its own TTFT.
"""

from collections import OrderedDict
from hashlib import blake2b

from msgspec import Struct

BYTES_PER_TOKEN = 4
"""The stand-in's tokenizer: four bytes of text are a token, which is about right for English."""

BLOCK_TOKENS = 16
"""Tokens per cache block, vLLM's default on GPUs."""

_BLOCK_BYTES = BLOCK_TOKENS * BYTES_PER_TOKEN
_KEY_BYTES = 16


class Prompt(Struct, frozen=True, kw_only=True):
    """A prompt as the batcher sees it: its length, and the chained key of each full block."""

    tokens: int
    blocks: tuple[bytes, ...]


def prompt(text: bytes, cache_salt: str = "") -> Prompt:
    """Cut a text into blocks; an empty one still has the token that begins every sequence."""
    key = blake2b(cache_salt.encode(), digest_size=_KEY_BYTES).digest()
    blocks = []
    for end in range(_BLOCK_BYTES, len(text) + 1, _BLOCK_BYTES):
        key = blake2b(text[end - _BLOCK_BYTES : end], digest_size=_KEY_BYTES, key=key).digest()
        blocks.append(key)
    return Prompt(tokens=max(1, -(-len(text) // BYTES_PER_TOKEN)), blocks=tuple(blocks))


class PrefixCache:
    """The blocks computed last, at most `max_blocks`; the least recently used goes first."""

    def __init__(self, max_blocks: int) -> None:
        self._max_blocks = max_blocks
        self._blocks: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def match(self, prompt: Prompt) -> int:
        """Return how many leading tokens are cached: whole blocks, and never the prompt's last token.

        The last token is always computed, since the first output token comes from it.
        """
        usable = prompt.blocks[: (prompt.tokens - 1) // BLOCK_TOKENS]
        hits = next((index for index, key in enumerate(usable) if key not in self._blocks), len(usable))
        self._touch(usable[:hits])
        return hits * BLOCK_TOKENS

    def insert(self, prompt: Prompt) -> None:
        """Remember every block of a prompt whose prefill is complete."""
        self._touch(prompt.blocks)
        while len(self._blocks) > self._max_blocks:
            self._blocks.popitem(last=False)

    def _touch(self, blocks: tuple[bytes, ...]) -> None:
        # Back to front, so that a prefix loses its tail first: a block whose parent is gone cannot be found.
        for key in reversed(blocks):
            self._blocks[key] = None
            self._blocks.move_to_end(key)
