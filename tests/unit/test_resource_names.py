"""Resource names: one spelling only (docs/formats/resource-names.md)."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.resource_names import (
    AliasName,
    KeyName,
    KeyVersionName,
    RegionName,
    ResourceNameError,
    parse_key_or_alias,
)

ID = "0b8d5f0e-6f3c-4b7e-9d1a-2f1f4a1b7c3d"
KEY = f"regions/eu-1/keys/{ID}"

regions = st.from_regex(r"[a-z][a-z0-9-]{0,31}", fullmatch=True)
versions = st.integers(1, 2**32 - 1)
aliases = st.lists(st.from_regex(r"[a-zA-Z0-9_-]{1,20}", fullmatch=True), min_size=1).map(
    lambda parts: "/".join(parts)[:256].rstrip("/")
)
texts = st.one_of(st.text(max_size=80), st.text(alphabet="regionskyalv/-0123456789abcdef\n"))

# Each of these, put before or after a good name, or in place of a good character, spoils it.
EDGES = ["\n", "\r", " ", "\x00", "/", "\u200b", "é", "?", "."]
PARSERS = [RegionName.parse, KeyName.parse, KeyVersionName.parse, AliasName.parse]


@given(region=regions, key_id=st.uuids(), version=versions, alias=aliases)
def test_names_survive_a_round_trip(region, key_id, version, alias):
    """What is formatted parses to the same name, and only with its own parser."""
    for parse, name in (
        (RegionName.parse, RegionName(region)),
        (KeyName.parse, KeyName(region, key_id)),
        (KeyVersionName.parse, KeyVersionName(region, key_id, version)),
        (AliasName.parse, AliasName(region, alias)),
    ):
        assert parse(str(name)) == name
        for other in PARSERS:
            if other != parse:
                with pytest.raises(ResourceNameError):
                    other(str(name))
    assert KeyVersionName(region, key_id, version).key == KeyName(region, key_id)


@given(text=texts)
def test_any_text_is_refused_or_is_the_one_spelling(text):
    """A parser never raises anything but its error, and never accepts a second spelling."""
    for parse in (*PARSERS, parse_key_or_alias):
        try:
            name = parse(text)
        except ResourceNameError:
            continue
        assert str(name) == text


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize(
    "good",
    [
        "regions/eu-1",
        KEY,
        f"{KEY}/versions/1",
        "regions/eu-1/aliases/a/b",
    ],
)
def test_nothing_before_or_after_a_name(good, edge):
    """Names are never trimmed: white space, slashes and others at the ends are refused."""
    for parse in (*PARSERS, parse_key_or_alias):
        for text in (edge + good, good + edge):
            with pytest.raises(ResourceNameError):
                parse(text)


@pytest.mark.parametrize(
    "text",
    [
        KEY.upper(),
        KEY.replace(ID, ID.upper()),
        KEY.replace("eu-1", "EU-1"),
        KEY.replace("eu-1", "1eu"),
        KEY.replace("eu-1", "eu_1"),
        KEY.replace("eu-1", "e" * 33),
        KEY.replace("eu-1", "еu-1"),  # noqa: RUF001 - a Cyrillic letter, on purpose
        KEY.replace("eu-1", ""),
        KEY.replace("-", ""),
        KEY.replace(ID, f"{{{ID}}}"),
        KEY.replace(ID, f"urn:uuid:{ID}"),
        KEY.replace(ID, ID[:-1]),
        KEY.replace(ID, ID[:-1] + "g"),
        KEY.replace(ID, ID[:-1] + "３"),  # noqa: RUF001 - a digit of another script, on purpose
        KEY.replace("/", "//"),
        KEY.replace("keys", "Keys"),
        f"/{KEY}",
        f"projects/x/{KEY}",
        "",
    ],
)
def test_other_spellings_of_a_key_are_refused(text):
    """Upper case, braces, other scripts and missing parts are not names of keys."""
    for parse in (KeyName.parse, parse_key_or_alias):
        with pytest.raises(ResourceNameError):
            parse(text)


@pytest.mark.parametrize(
    "number",
    [
        "0",
        "00",
        "01",
        "-1",
        "+1",
        "1.0",
        "1e3",
        "0x1",
        "1_0",
        "４",  # noqa: RUF001 - a digit of another script, on purpose
        "²",
        str(2**32),
        "9" * 10,
        "9" * 11,
    ],
)
def test_versions_are_plain_numbers_of_32_bits(number):
    """Zero, leading zeros, signs, other scripts' digits and 2^32 are refused."""
    with pytest.raises(ResourceNameError):
        KeyVersionName.parse(f"{KEY}/versions/{number}")
    assert KeyVersionName.parse(f"{KEY}/versions/{2**32 - 1}").version == 2**32 - 1
    assert KeyVersionName.parse(f"{KEY}/versions/1").key_id == uuid.UUID(ID)


@pytest.mark.parametrize(
    "alias",
    ["", "/", "a/", "/a", "a//b", "a b", "a.b", "..", "a:b", "é", "a" * 257, "a\n", "a%2Fb"],
)
def test_malformed_aliases_are_refused(alias):
    """Empty parts, other characters and more than 256 characters are refused."""
    for parse in (AliasName.parse, parse_key_or_alias):
        with pytest.raises(ResourceNameError):
            parse(f"regions/eu-1/aliases/{alias}")


def test_the_longest_names_are_accepted():
    """A region of 32 and an alias of 256 characters are names, one more is not."""
    region, alias = "e" * 32, "a" * 256
    assert str(RegionName.parse(f"regions/{region}")) == f"regions/{region}"
    longest = f"regions/{region}/aliases/{alias}"
    assert len(longest) <= 320
    assert str(parse_key_or_alias(longest)) == longest
    with pytest.raises(ResourceNameError):
        RegionName.parse(f"regions/{region}e")
