"""Random numbers are the published generator's, and depend on seed, stream, sample and draw alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from interpeval.datasets.philox import (
    derived_keys,
    permutation,
    permutation_keys,
    philox_4x32_10,
    random_words,
    sample_keys,
    uniform,
)
from reference.philox import Words4
from reference.philox import philox_4x32_10 as slow_philox

ALL_ONES = 0xFFFFFFFF
IDS = tuple(f"sample-{index}" for index in range(17))

word = st.integers(0, ALL_ONES)
draws_of_three = pytest.mark.parametrize("draw", [random_words, uniform, permutation])


# The known answers that its authors publish with Random123 (kat_vectors, "philox4x32 10").
@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ALL_ONES,) * 4, (ALL_ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
@pytest.mark.parametrize("cipher", [lambda c, k: philox_4x32_10(torch.tensor(c), k).tolist(), slow_philox])
def test_philox_gives_the_published_answers(
    cipher: Callable[..., object], counter: Words4, key: tuple[int, int], answer: Words4
) -> None:
    assert tuple(cipher(counter, key)) == answer


@settings(deadline=None, max_examples=100)
@given(counters=st.lists(st.tuples(word, word, word, word), min_size=1, max_size=5), key=st.tuples(word, word))
def test_philox_of_many_counters_agrees_with_the_definition_in_plain_whole_numbers(
    counters: list[Words4], key: tuple[int, int]
) -> None:
    fast = philox_4x32_10(torch.tensor(counters), key).tolist()
    assert [tuple(words) for words in fast] == [slow_philox(counter, key) for counter in counters]


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**40),
    stream=st.text(max_size=10),
    key=st.integers(-(2**63), 2**63 - 1),
    draw=word,
    size=st.integers(1, 9),
)
def test_random_words_encrypt_block_draw_and_sample_key_under_the_hash_of_seed_and_stream(
    seed: int, stream: str, key: int, draw: int, size: int
) -> None:
    digest = hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=8).digest()
    philox_key = int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")
    unsigned = key % 2**64
    expected = [
        number
        for block in range(3)
        for number in slow_philox((block, draw, unsigned % 2**32, unsigned // 2**32), philox_key)
    ]
    assert random_words(seed, stream, torch.tensor([key]), draw, size).tolist() == [expected[:size]]


def test_text_ids_become_keys_by_their_hash_and_whole_numbers_stay_as_they_are() -> None:
    hashed = int.from_bytes(hashlib.blake2b(b"a", digest_size=8).digest(), "little", signed=True)
    assert sample_keys(["a"]).tolist() == [hashed]
    assert sample_keys([5, -7]).tolist() == [5, -7]
    assert sample_keys(torch.tensor([3], dtype=torch.int32)).dtype == torch.int64


@draws_of_three
def test_numbers_of_a_sample_do_not_depend_on_order_batch_or_neighbours(draw: Callable[..., Tensor]) -> None:
    whole = draw(3, "test", sample_keys(IDS), 2, 11)
    order = torch.randperm(len(IDS), generator=torch.Generator().manual_seed(0))
    shuffled = draw(3, "test", sample_keys([IDS[i] for i in order]), 2, 11)
    one_by_one = torch.cat([draw(3, "test", sample_keys([name]), 2, 11) for name in IDS])
    assert torch.equal(shuffled, whole[order])
    assert torch.equal(one_by_one, whole)


def test_draws_of_a_batch_may_differ_from_sample_to_sample() -> None:
    keys = sample_keys(IDS[:3])
    mixed = random_words(0, "test", keys, torch.tensor([4, 0, 9]), 5)
    assert torch.equal(mixed, torch.cat([random_words(0, "test", keys[[i]], d, 5) for i, d in enumerate((4, 0, 9))]))


@pytest.mark.parametrize("draw", [random_words, uniform])
@settings(deadline=None, max_examples=20)
@given(size=st.integers(1, 30))
def test_the_first_numbers_do_not_depend_on_how_many_are_drawn(draw: Callable[..., Tensor], size: int) -> None:
    keys = sample_keys(IDS[:2])
    assert torch.equal(draw(0, "test", keys, 0, size), draw(0, "test", keys, 0, 30)[:, :size])


@pytest.mark.parametrize(
    "other",
    [(1, "test", "a", 0), (0, "text", "a", 0), (0, "test", "b", 0), (0, "test", "a", 1)],
    ids=["seed", "stream", "sample", "draw"],
)
def test_another_seed_stream_sample_or_draw_gives_other_numbers(other: tuple[int, str, str, int]) -> None:
    def words(seed: int, stream: str, name: str, draw: int) -> Tensor:
        return random_words(seed, stream, sample_keys([name]), draw, 64)

    assert not (words(*other) == words(0, "test", "a", 0)).any()
    assert torch.equal(words(0, "test", "a", 0), words(0, "test", "a", 0))


def test_derived_keys_are_words_of_their_draw_and_all_differ() -> None:
    keys = sample_keys(IDS)
    derived = torch.stack([derived_keys(keys, "copies", draw) for draw in range(50)])
    assert len(derived.unique()) == derived.numel()
    low, high = random_words(0, "copies", keys, 7, 2).unbind(1)
    assert torch.equal(derived[7] & ALL_ONES, low)
    assert torch.equal((derived[7] >> 32) & ALL_ONES, high)


def test_uniform_numbers_are_the_middles_of_two_to_the_32_cells() -> None:
    keys = sample_keys(IDS)
    words = random_words(0, "test", keys, 0, 8)
    numbers = uniform(0, "test", keys, 0, 8)
    assert numbers.dtype == torch.float64
    assert torch.equal(numbers * 2**32 - 0.5, words.double())  # hence never 0 and never 1


def test_uniform_numbers_fill_the_interval_evenly_and_neighbours_are_independent() -> None:
    numbers = uniform(0, "test", sample_keys(range(1000)), 0, 64)
    cells = (numbers * 16).long()
    assert chisquare(cells.flatten().bincount(minlength=16)).pvalue > 0.001
    for first, second in ((cells[:, :-1], cells[:, 1:]), (cells[:-1], cells[1:])):  # along draws, along samples
        assert chisquare((first * 16 + second).flatten().bincount(minlength=256)).pvalue > 0.001
    uneven = (numbers**1.05 * 16).long()  # the same test notices a slight unevenness
    assert chisquare(uneven.flatten().bincount(minlength=16)).pvalue < 0.001


@settings(deadline=None, max_examples=30)
@given(size=st.integers(1, 200), seed=st.integers(0, 1000))
def test_a_permutation_holds_every_number_once(size: int, seed: int) -> None:
    orders = permutation(seed, "test", sample_keys(IDS), 0, size)
    assert torch.equal(orders.sort(dim=1).values, torch.arange(size).expand(len(IDS), size))


def test_some_members_of_a_permutation_are_sorted_by_their_keys_as_in_the_whole_one() -> None:
    """Odd and even members, repeated ones, and a draw of each sample's own."""
    keys, draws = sample_keys(IDS), torch.arange(len(IDS))
    places = permutation(5, "test", keys, draws, 101).argsort(dim=1)
    members = torch.tensor([100, 3, 2, 57, 3, 0, 98])
    rows = torch.arange(len(IDS)).repeat_interleave(len(members))
    numbers = permutation_keys(5, "test", keys[rows], draws[rows], members.repeat(len(IDS))).view(len(IDS), -1)
    assert torch.equal(numbers.argsort(dim=1, stable=True), places[:, members].argsort(dim=1, stable=True))
    assert not torch.equal(numbers[0].argsort(), numbers[1].argsort())
    assert torch.equal(numbers[:, 1], numbers[:, 4])


def test_every_number_is_as_likely_at_every_position_of_a_permutation() -> None:
    orders = permutation(0, "test", sample_keys(range(6000)), 0, 6)
    counts = torch.stack([column.bincount(minlength=6) for column in orders.T])
    # 36 counts of which 25 are free; the statistic is 5/6 of Pearson's for a permutation matrix's variance.
    statistic = float(((counts - 1000.0) ** 2 / 1000).sum()) * 5 / 6
    assert statistic < 52.6, "beyond the 99.9 % point of chi-square with 25 degrees of freedom"
    pairs = orders[:, 0] * 6 + orders[:, 1]
    assert chisquare(pairs.bincount(minlength=36)[pairs.unique()]).pvalue > 0.001
    assert len(pairs.unique()) == 30
