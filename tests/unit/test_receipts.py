"""Receipts: one spelling only (docs/formats/receipt-v1.md)."""

from __future__ import annotations

import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.receipts import Receipt, ReceiptError

DIGEST = "ab" * 32
GOOD = f"v1:eu-1:1700000000000:42:{DIGEST}"

u64 = st.integers(1, 2**64 - 1)


@given(
    region=st.from_regex(r"[a-z][a-z0-9-]{0,31}", fullmatch=True),
    epoch=u64,
    sequence=u64,
    digest=st.binary(min_size=32, max_size=32),
)
def test_receipts_survive_a_round_trip(region, epoch, sequence, digest):
    """What is formatted parses to the same receipt."""
    receipt = Receipt(region, epoch, sequence, digest)
    assert Receipt.parse(str(receipt)) == receipt
    assert str(receipt).isascii()


def test_a_buffered_receipt_says_so_and_is_of_the_same_record():
    """The ending survives a round trip and is no part of what receipts are compared by."""
    buffered = Receipt.parse(f"{GOOD}:buffered")
    assert buffered.is_buffered
    assert str(buffered) == f"{GOOD}:buffered"
    assert not Receipt.parse(GOOD).is_buffered
    assert {buffered} == {Receipt.parse(GOOD)}


@given(text=st.text(max_size=120))
def test_any_text_is_refused_or_is_the_one_spelling(text):
    """The parser raises nothing but its error, and accepts no second spelling."""
    for candidate in (text, GOOD[: len(text) % len(GOOD)] + text):
        with contextlib.suppress(ReceiptError):
            assert str(Receipt.parse(candidate)) == candidate


def test_a_receipt_hashes_the_exact_bytes_of_its_record():
    """The digest is the SHA-256 of the record as it was written."""
    receipt = Receipt.for_record(region="eu-1", epoch=1, sequence=2, record=b"{}")
    assert receipt.record_sha256 == hashlib.sha256(b"{}").digest()


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD + "\n",
        " " + GOOD,
        GOOD.replace("v1", "v2"),
        GOOD.replace("v1", "V1"),
        GOOD.replace("eu-1", "EU-1"),
        GOOD.replace(":42:", ":0:"),
        GOOD.replace(":42:", ":042:"),
        GOOD.replace(":42:", ":-42:"),
        GOOD.replace(":42:", ":４２:"),  # noqa: RUF001 - digits of another script, on purpose
        GOOD.replace(":42:", "::"),
        GOOD.replace(":42:", f":{2**64}:"),
        GOOD.replace(":42:", f":{'9' * 5000}:"),
        GOOD.replace("1700000000000", str(2**64)),
        GOOD.replace(DIGEST, DIGEST.upper()),
        GOOD.replace(DIGEST, DIGEST[:-2]),
        GOOD.replace(DIGEST, DIGEST + "ab"),
        GOOD + ":more",
        GOOD + ":buffered:buffered",
        GOOD + ":Buffered",
    ],
)
def test_what_is_not_a_receipt_is_refused(text):
    """Other versions, spellings, numbers over 64 bits and lengths are refused."""
    with pytest.raises(ReceiptError):
        Receipt.parse(text)
