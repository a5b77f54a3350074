"""Between messages and plain types."""

from __future__ import annotations

import pytest

from strongroom.kms.v1 import key_service_pb2 as messages
from strongroom.resource_names import AliasName, KeyName
from strongroom_server.errors import ArgumentInvalidError, ChecksumMismatchError
from strongroom_server.rpc import convert

ID = "0b8d5f0e-6f3c-4b7e-9d1a-2f1f4a1b7c3d"


def test_names_are_parsed_and_errors_name_their_field():
    """A malformed name is an invalid argument that says which field it was."""
    assert convert.region("parent", "regions/eu-1") == "eu-1"
    assert isinstance(convert.key_or_alias("key", f"regions/eu-1/keys/{ID}"), KeyName)
    assert isinstance(convert.key_or_alias("key", "regions/eu-1/aliases/a"), AliasName)
    for parse in (convert.region, convert.key_name, convert.key_or_alias):
        with pytest.raises(ArgumentInvalidError) as refusal:
            parse("some_field", "nonsense")
        assert refusal.value.violations[0].field == "some_field"


@pytest.mark.parametrize(
    ("parent", "alias_id", "field"),
    [
        ("regions/eu-1", "", "alias_id"),
        ("regions/eu-1", "a//b", "alias_id"),
        ("regions/eu-1", "../x", "alias_id"),
        ("regions/eu-1", "a" * 257, "alias_id"),
        ("regions/eu-1/aliases/service", "x", "parent"),
        ("regions/EU", "x", "parent"),
        ("", "x", "parent"),
    ],
)
def test_a_parent_cannot_bring_part_of_an_alias(parent, alias_id, field):
    """Parent and alias are parsed apart, and the error names the one that is wrong."""
    with pytest.raises(ArgumentInvalidError) as refusal:
        convert.alias_name(parent, alias_id)
    assert refusal.value.violations[0].field == field
    assert str(convert.alias_name("regions/eu-1", "a/b")) == "regions/eu-1/aliases/a/b"


def test_contexts_without_a_canonical_form_are_refused():
    """Too large, too many, and empty names are invalid arguments of their field."""
    assert convert.context_of("encryption_context", {"a": "b"}) == {"a": "b"}
    assert convert.context_of("encryption_context", {}) == {}
    for context in ({"": "x"}, {"a": "x" * 8185}, {f"k{n}": "" for n in range(257)}):
        with pytest.raises(ArgumentInvalidError) as refusal:
            convert.context_of("source_encryption_context", context)
        assert refusal.value.violations[0].field == "source_encryption_context"
    assert convert.context_of("f", {"a": "x" * 8184})


def test_checksums_are_compared_when_they_are_given():
    """The check value of CRC32C; zero is a checksum like another; a mismatch is refused."""
    assert convert.crc32c(b"123456789") == 0xE3069283  # RFC 3720, B.4 uses the same polynomial
    assert convert.check_crc32c("f", b"123456789", given=0xE3069283)
    assert not convert.check_crc32c("f", b"123456789", given=None)
    assert convert.check_crc32c("f", b"", given=0)
    for given in (0, 1, 2**32 - 1):
        with pytest.raises(ChecksumMismatchError, match="f: the CRC32C"):
            convert.check_crc32c("f", b"123456789", given=given)


def test_the_length_of_a_data_key():
    """32 when nothing is said, else what is said."""
    request = messages.GenerateDataKeyRequest
    assert convert.data_key_bytes(request()) == 32
    assert convert.data_key_bytes(request(data_key_spec=messages.DATA_KEY_SPEC_AES_128)) == 16
    assert convert.data_key_bytes(request(data_key_spec=messages.DATA_KEY_SPEC_AES_256)) == 32
    assert convert.data_key_bytes(request(number_of_bytes=1024)) == 1024
