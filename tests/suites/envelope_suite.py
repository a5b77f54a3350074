"""The acceptance suite of envelopes over a key service; see kms_suite.py for its use."""

from __future__ import annotations

import functools
import random
from pathlib import Path

import pytest
from tests.suites.under_test import KmsUnderTest, refusal_of

from strongroom_client import (
    ANY_CONTEXT,
    DataKeyCache,
    EnvelopeClient,
    EnvelopeInvalidError,
    KeyDisabledError,
    KeyNotFoundError,
    NoEndpointError,
    StrongroomError,
    UnavailableError,
    read_envelope_info,
)
from strongroom_client.stream import decrypt_file, encrypt_file, rekey_file

__all__ = ["EnvelopeSuite"]

CONTEXT = {"order": "17", "tenant": "acme"}
CHUNK = 16 * 1024
SEALED_CHUNK = CHUNK + 16
PREFIX = 56
SIZES = (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 64 * CHUNK, 64 * CHUNK + 5)


def _two_keys(kms: KmsUnderTest) -> list[str]:
    return [kms.client.create_key(region).name for region in kms.regions]


def _plaintext(size: int) -> bytes:
    return random.Random(size).randbytes(size)  # noqa: S311 - the same every time


def _body_start(envelope: bytes) -> int:
    return read_envelope_info(envelope).header_bytes


class EnvelopeSuite:
    """Envelopes in memory and in files, with two regions and with one."""

    @pytest.mark.parametrize("size", SIZES)
    def test_an_envelope_opens(self, kms: KmsUnderTest, size: int, tmp_path: Path) -> None:
        """A message of any length comes back, and files and memory understand each other."""
        client = EnvelopeClient(kms.client, keys=_two_keys(kms))
        plain, sealed, opened = (tmp_path / name for name in ("plain", "sealed", "opened"))
        plain.write_bytes(_plaintext(size))
        encrypt_file(client, plain, sealed, encryption_context=CONTEXT)
        assert client.decrypt(sealed.read_bytes(), encryption_context=CONTEXT) == _plaintext(size)
        sealed.write_bytes(client.encrypt(_plaintext(size), encryption_context=CONTEXT))
        report = decrypt_file(client, sealed, opened, encryption_context=CONTEXT)
        assert opened.read_bytes() == _plaintext(size)
        assert (report.body_bytes, report.encryption_context) == (size, CONTEXT)

    def test_either_region_opens_an_envelope(self, kms: KmsUnderTest, tmp_path: Path) -> None:
        """With keys in two regions a message opens while one of them is down, whichever it is."""
        client = EnvelopeClient(kms.client, keys=_two_keys(kms))
        envelope = client.encrypt(b"hello", encryption_context=CONTEXT)
        (tmp_path / "sealed").write_bytes(envelope)
        for region in kms.regions:
            with kms.down(region):
                assert client.decrypt(envelope, encryption_context=CONTEXT) == b"hello"
                decrypt_file(
                    client, tmp_path / "sealed", tmp_path / region, encryption_context=CONTEXT
                )
                assert (tmp_path / region).read_bytes() == b"hello"

    def test_no_envelope_is_made_with_fewer_keys(self, kms: KmsUnderTest, tmp_path: Path) -> None:
        """While a region is down nothing is encrypted for two, and no file is left behind."""
        client = EnvelopeClient(kms.client, keys=_two_keys(kms))
        plain, sealed = tmp_path / "plain", tmp_path / "sealed"
        plain.write_bytes(b"hello")
        with kms.down(kms.regions[1]):
            with pytest.raises(UnavailableError):
                client.encrypt(b"hello", encryption_context=CONTEXT)
            with pytest.raises(UnavailableError):
                encrypt_file(client, plain, sealed, encryption_context=CONTEXT)
        assert [path.name for path in tmp_path.iterdir()] == ["plain"]

    def test_a_cached_data_key_outlives_an_outage(self, kms: KmsUnderTest) -> None:
        """With a cache, messages go on in both directions while no region answers."""
        client = EnvelopeClient(kms.client, keys=_two_keys(kms), cache=DataKeyCache())
        first = client.encrypt(b"one", encryption_context=CONTEXT)
        client.decrypt(first, encryption_context=CONTEXT)
        with kms.down(kms.regions[0]), kms.down(kms.regions[1]):
            second = client.encrypt(b"two", encryption_context=CONTEXT)
            assert client.decrypt(second, encryption_context=CONTEXT) == b"two"
            with pytest.raises(UnavailableError):
                client.encrypt(b"three", encryption_context={"another": "context"})

    def test_a_disabled_key_does_not_open(self, kms: KmsUnderTest) -> None:
        """With one key disabled the other opens; with both it is KEY_DISABLED."""
        keys = _two_keys(kms)
        client = EnvelopeClient(kms.client, keys=keys)
        envelope = client.encrypt(b"hello", encryption_context={})
        kms.client.disable_key(keys[0])
        assert client.decrypt(envelope, encryption_context={}) == b"hello"
        kms.client.disable_key(keys[1])
        with pytest.raises(KeyDisabledError):
            client.decrypt(envelope, encryption_context={})

    def test_another_context_does_not_open(self, kms: KmsUnderTest) -> None:
        """Any other expected context is ENVELOPE_INVALID; without one it is returned."""
        client = EnvelopeClient(kms.client, keys=_two_keys(kms))
        envelope = client.encrypt(b"hello", encryption_context=CONTEXT)
        for context in ({}, {"order": "17"}, CONTEXT | {"order": "18"}):
            with pytest.raises(EnvelopeInvalidError):
                client.decrypt(envelope, encryption_context=context)
        opened = client.decrypt_returning_context(envelope)
        assert (opened.plaintext, opened.encryption_context) == (b"hello", CONTEXT)

    def test_rekeying_leaves_the_body(self, kms: KmsUnderTest, tmp_path: Path) -> None:
        """After re-keying the new keys open, the removed one is not asked, the body is the same."""
        old, new = _two_keys(kms), _two_keys(kms)
        client = EnvelopeClient(kms.client, keys=old)
        envelope = client.encrypt(_plaintext(2 * CHUNK), encryption_context=CONTEXT)
        renewed = EnvelopeClient(kms.client, keys=new).rekey(envelope, encryption_context=CONTEXT)
        assert renewed[_body_start(renewed) :] == envelope[_body_start(envelope) :]
        assert sorted(read_envelope_info(renewed).keys) == sorted(new)
        for key in old:
            kms.client.disable_key(key)
        assert client.decrypt(renewed, encryption_context=CONTEXT) == _plaintext(2 * CHUNK)
        path = tmp_path / "sealed"
        path.write_bytes(renewed)
        rekey_file(client, path, path, encryption_context=ANY_CONTEXT, keys=new[:1])
        assert read_envelope_info(path.read_bytes()).keys == (new[0],)
        assert (
            path.read_bytes()[_body_start(path.read_bytes()) :] == renewed[_body_start(renewed) :]
        )
        assert client.decrypt(path.read_bytes(), encryption_context=CONTEXT) == _plaintext(
            2 * CHUNK
        )

    def test_aliases_become_key_names(self, kms: KmsUnderTest) -> None:
        """An envelope made under an alias names the key, so the alias may move."""
        key = _two_keys(kms)[0]
        alias_id = f"envelopes/{key[-12:]}"
        alias = kms.client.create_alias(kms.regions[0], alias_id=alias_id, key=key)
        envelope = EnvelopeClient(kms.client, keys=[alias.name]).encrypt(b"", encryption_context={})
        assert read_envelope_info(envelope).keys == (key,)

    def test_a_cut_envelope_leaves_no_file(self, kms: KmsUnderTest, tmp_path: Path) -> None:
        """Cut at every boundary and around it, an envelope is ENVELOPE_INVALID without output."""
        client = EnvelopeClient(kms.client, keys=_two_keys(kms), cache=DataKeyCache())
        envelope = client.encrypt(_plaintext(2 * CHUNK + 9), encryption_context=CONTEXT)
        start = _body_start(envelope)
        bounds = [0, 5, 24, 26, start - 32, start, start + 24, start + PREFIX]
        bounds += [start + PREFIX + n * SEALED_CHUNK for n in (1, 2)] + [len(envelope)]
        cuts = {bound + delta for bound in bounds for delta in (-1, 0, 1)}
        for cut in sorted(cut for cut in cuts if 0 <= cut < len(envelope)):
            self._refuse(client, envelope[:cut], tmp_path)
        self._refuse(client, envelope + b"\0", tmp_path)
        self._refuse(client, envelope + envelope, tmp_path)

    def test_moved_chunks_leave_no_file(self, kms: KmsUnderTest, tmp_path: Path) -> None:
        """Swapped, doubled and dropped chunks are ENVELOPE_INVALID without output."""
        client = EnvelopeClient(kms.client, keys=_two_keys(kms), cache=DataKeyCache())
        envelope = client.encrypt(_plaintext(3 * CHUNK + 9), encryption_context=CONTEXT)
        start = _body_start(envelope) + PREFIX
        head, chunks = (
            envelope[:start],
            [envelope[at : at + SEALED_CHUNK] for at in range(start, len(envelope), SEALED_CHUNK)],
        )
        for order in ((1, 0, 2, 3), (0, 0, 1, 2, 3), (0, 2, 3), (1, 2, 3), (3,), (0, 1, 2, 2, 3)):
            self._refuse(client, head + b"".join(chunks[n] for n in order), tmp_path)

    def test_a_body_opens_under_its_own_header_only(
        self, kms: KmsUnderTest, tmp_path: Path
    ) -> None:
        """Two messages of one data key and context cannot swap headers."""
        client = EnvelopeClient(kms.client, keys=_two_keys(kms), cache=DataKeyCache())
        one = client.encrypt(b"one", encryption_context=CONTEXT)
        two = client.encrypt(b"two", encryption_context=CONTEXT)
        start = _body_start(one)
        self._refuse(client, one[:start] + two[start:], tmp_path)
        self._refuse(client, two[:start] + one[start:], tmp_path)

    def test_any_mutation_of_a_header_is_refused(self, kms: KmsUnderTest) -> None:
        """Flipped bits, changed bytes, cuts and insertions never open, and raise typed errors."""
        client = EnvelopeClient(kms.client, keys=_two_keys(kms))
        envelope = client.encrypt(b"hello", encryption_context=CONTEXT)
        start = _body_start(envelope)
        source = random.Random(kms.mutations)  # noqa: S311 - the same every time
        for number in range(kms.mutations):
            mutated = _mutate(envelope, start, source, number)
            error = refusal_of(functools.partial(client.decrypt_returning_context, mutated))
            # Before the MAC can be checked a key must be found: a name that was changed to
            # another valid one may be what is missing.
            assert isinstance(error, (EnvelopeInvalidError, KeyNotFoundError, NoEndpointError))
            assert isinstance(error, StrongroomError)

    @staticmethod
    def _refuse(client: EnvelopeClient, envelope: bytes, directory: Path) -> None:
        source = directory / "sealed"
        source.write_bytes(envelope)
        with pytest.raises(EnvelopeInvalidError):
            client.decrypt(envelope, encryption_context=CONTEXT)
        with pytest.raises(EnvelopeInvalidError):
            decrypt_file(client, source, directory / "opened", encryption_context=CONTEXT)
        assert [path.name for path in directory.iterdir()] == ["sealed"]


def _mutate(envelope: bytes, header_bytes: int, source: random.Random, number: int) -> bytes:
    """Return the envelope with its header changed: first every bit in turn, then at random."""
    data = bytearray(envelope)
    if number < 8 * header_bytes:
        data[number // 8] ^= 1 << number % 8
        return bytes(data)
    at = source.randrange(header_bytes)
    match source.randrange(4):
        case 0:
            data[at] ^= source.randrange(1, 256)
        case 1:
            del data[at : at + source.randrange(1, 9)]
        case 2:
            data[at:at] = source.randbytes(source.randrange(1, 9))
        case _:
            for _ in range(source.randrange(2, 6)):
                data[source.randrange(header_bytes)] ^= 1 << source.randrange(8)
    # A few random flips may have undone each other.
    return bytes(data) if bytes(data) != envelope else bytes(data[:-1])
