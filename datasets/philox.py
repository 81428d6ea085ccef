"""Counter-based random numbers: every draw is a pure function of (seed, stream, sample key, draw).

Nothing here has a state. The numbers of one sample are therefore the same for any batch size, sample order,
shard, worker count, resumed run and device, which no generator that is advanced from call to call can offer.

The generator is Philox-4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3",
SC 2011), written in integer tensor operations, so that a batch of samples is drawn at once on any device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox_4x32_10(counter: Tensor, key: tuple[int, int]) -> Tensor:
    """Encrypt 128-bit counters under a 64-bit key: ten rounds of Philox-4x32.

    Args:
        counter: `(..., 4)` int64, four unsigned 32-bit words each.
        key: two unsigned 32-bit words.

    Returns:
        `(..., 4)` int64, four unsigned 32-bit words, uniform and independent over counters.

    Example:
        >>> [f"{int(word):08x}" for word in philox_4x32_10(torch.zeros(4, dtype=torch.int64), (0, 0))]
        ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    c0, c1, c2, c3 = counter.unbind(-1)
    k0, k1 = key
    for _ in range(_ROUNDS):
        # int64 multiplication wraps modulo 2**64, so both halves of the unsigned product are exact.
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((second >> 32) & _WORD) ^ c1 ^ k0,
            second & _WORD,
            ((first >> 32) & _WORD) ^ c3 ^ k1,
            first & _WORD,
        )
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return torch.stack((c0, c1, c2, c3), dim=-1)


def sample_keys(ids: Sequence[str] | Sequence[int] | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Turn sample ids into the `(B,)` int64 keys that random numbers are drawn by.

    Text is hashed (BLAKE2b, 64 bits); whole numbers are taken as they are.
    """
    if isinstance(ids, Tensor):
        return ids.to(device=device, dtype=torch.int64)
    keys = [
        int.from_bytes(hashlib.blake2b(i.encode(), digest_size=8).digest(), "little", signed=True)
        if isinstance(i, str)
        else int(i)
        for i in ids
    ]
    return torch.tensor(keys, dtype=torch.int64, device=device)


def derived_keys(keys: Tensor, stream: str, draws: Tensor | int) -> Tensor:
    """Keys of inputs made from samples: one for each (sample key, stream, draw), as `(B,)` int64.

    A stochastic explainer that is asked about a transformed copy of a sample draws by such a key, so that copies
    of one sample get independent numbers which still depend on nothing else.
    """
    draws = torch.as_tensor(draws, device=keys.device).expand_as(keys)
    words = _blocks(0, stream, keys, draws, torch.zeros(1, dtype=torch.int64, device=keys.device))[:, 0]
    return (words[:, 1] << 32) | words[:, 0]


def random_words(seed: int, stream: str, keys: Tensor, draws: Tensor | int, size: int) -> Tensor:
    """Draw `size` unsigned 32-bit words for every (sample key, draw) pair.

    Args:
        seed: the run's seed.
        stream: name of what is drawn; different names give independent numbers.
        keys: `(B,)` int64 sample keys (`sample_keys`).
        draws: `(B,)` int64 or one number: which Monte Carlo repetition.
        size: how many words a pair gets.

    Returns:
        `(B, size)` int64 in `[0, 2**32)`. The first words do not depend on `size`.
    """
    draws = torch.as_tensor(draws, device=keys.device).expand_as(keys)
    blocks = _blocks(seed, stream, keys, draws, torch.arange(-(-size // 4), device=keys.device))
    return blocks.flatten(1)[:, :size]


def uniform(seed: int, stream: str, keys: Tensor, draws: Tensor | int, size: int) -> Tensor:
    """Draw `(B, size)` float64 numbers, uniform in the open interval (0, 1); arguments as `random_words`.

    Example:
        >>> first = uniform(0, "demo", sample_keys(["a", "b"]), 0, 3)
        >>> bool((uniform(0, "demo", sample_keys(["b", "a"]), 0, 3) == first.flip(0)).all())
        True
    """
    return (random_words(seed, stream, keys, draws, size).double() + 0.5) / 2.0**32


def permutation(seed: int, stream: str, keys: Tensor, draws: Tensor | int, size: int) -> Tensor:
    """Draw a `(B, size)` int64 random permutation of `0 … size-1` for every (sample key, draw) pair."""
    words = random_words(seed, stream, keys, draws, 2 * size).view(len(keys), size, 2)
    return torch.argsort(_joined(words), dim=1, stable=True)


def permutation_keys(seed: int, stream: str, keys: Tensor, draws: Tensor | int, members: Tensor) -> Tensor:
    """Draw the numbers that `permutation` sorts by, for some of its members only.

    Args:
        seed: the run's seed.
        stream: name of what is drawn.
        keys: `(N,)` int64 sample keys, repeated for every member asked about.
        draws: `(N,)` int64 or one number.
        members: `(N,)` int64, numbers of `0 … size-1`, whatever the size.

    Returns:
        `(N,)` int64: of two members of one sample, the one with the smaller number stands first.

    Example:
        >>> key = sample_keys(["a"])
        >>> numbers = permutation_keys(0, "demo", key.expand(6), 0, torch.arange(6))
        >>> bool((numbers.argsort() == permutation(0, "demo", key, 0, 6)[0]).all())
        True
    """
    draws = torch.as_tensor(draws, device=keys.device).expand_as(keys)
    words = _blocks(seed, stream, keys, draws, members[:, None] // 2).view(-1, 2, 2)
    return _joined(words[torch.arange(len(members), device=keys.device), members % 2])


def _joined(words: Tensor) -> Tensor:
    """Join `(..., 2)` words to `(...)` numbers to sort by.

    63 bits of randomness: two equal ones are improbable (1e-9 for 10**5 elements), and a stable sort keeps the result
    defined even then.
    """
    return (words[..., 0] << 31) ^ words[..., 1]


def _blocks(seed: int, stream: str, keys: Tensor, draws: Tensor, block: Tensor) -> Tensor:
    """`(B, n, 4)` words of `(n,)` or `(B, n)` blocks.

    Counter = (block, draw, sample key), key = hash of (seed, stream).
    """
    digest = hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=8).digest()
    key = (int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little"))
    counter = torch.stack(
        torch.broadcast_tensors(
            block, (draws & _WORD)[:, None], (keys & _WORD)[:, None], ((keys >> 32) & _WORD)[:, None]
        ),
        dim=-1,
    )
    return philox_4x32_10(counter, key)
