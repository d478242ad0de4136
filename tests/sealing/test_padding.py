"""Padding hides lengths at a small price and comes off exactly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provkeep.errors import UnsealError
from provkeep.sealing.padding import pad, padded_length, unpad


@given(st.binary(max_size=600), st.integers(0, 40))
def test_what_was_padded_comes_back_even_if_it_looks_like_padding(data: bytes, zeros: int) -> None:
    for plaintext in (data, data + b"\x80" + bytes(zeros), data + bytes(zeros)):
        padded = pad(plaintext)
        assert unpad(padded) == plaintext
        assert len(padded) == padded_length(len(plaintext) + 1)


@pytest.mark.parametrize(
    ("length", "padded"),
    [(0, 16), (1, 16), (16, 16), (17, 18), (100, 104), (1000, 1024), (1025, 1088), (2**20, 2**20)],
)
def test_lengths_are_those_of_the_paper(length: int, padded: int) -> None:
    assert padded_length(length) == padded


@given(st.integers(17, 2**40))
def test_padding_grows_never_shrinks_and_costs_at_most_12_percent(length: int) -> None:
    padded = padded_length(length)
    assert length <= padded <= length * 1.12
    assert padded_length(padded) == padded
    assert padded_length(length - 1) <= padded


def test_payloads_of_similar_length_look_alike() -> None:
    assert len({padded_length(length) for length in range(961, 1025)}) <= 2
    assert len({len(pad(word)) for word in (b"yes", b"no", b"perhaps")}) == 1


@pytest.mark.parametrize(
    "lie",
    [b"", bytes(16), b"text", b"\x80", pad(b"text") + bytes(16), pad(b"text")[:-1], b"x" * 16],
)
def test_bytes_that_pad_did_not_write_are_refused(lie: bytes) -> None:
    with pytest.raises(UnsealError, match="padding"):
        unpad(lie)


def test_a_negative_length_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        padded_length(-1)
