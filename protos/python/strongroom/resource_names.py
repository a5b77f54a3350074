"""Resource names: how keys, key versions, grants and aliases are written.

    regions/{region}/keys/{uuid}
    regions/{region}/keys/{uuid}/versions/{n}
    regions/{region}/keys/{uuid}/grants/{uuid}
    regions/{region}/aliases/{alias}

Exactly one spelling is accepted: lower-case UUIDs with hyphens, versions without
leading zeros, no trailing slash. See docs/formats/resource-names.md.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import Final

__all__ = [
    "AliasName",
    "GrantName",
    "KeyName",
    "KeyVersionName",
    "RegionName",
    "ResourceNameError",
    "parse_key_or_alias",
]

MAX_VERSION: Final = 2**32 - 1  # the version number has 4 bytes in a ciphertext blob
MAX_ALIAS_CHARACTERS: Final = 256

_REGION: Final = r"(?P<region>[a-z][a-z0-9-]{0,31})"
_KEY: Final = r"(?P<key>[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})"
_ALIAS: Final = r"(?P<alias>[a-zA-Z0-9_-]+(?:/[a-zA-Z0-9_-]+)*)"
_REGION_NAME: Final = re.compile(rf"regions/{_REGION}", re.ASCII)
_KEY_NAME: Final = re.compile(rf"regions/{_REGION}/keys/{_KEY}", re.ASCII)
_VERSION_NAME: Final = re.compile(
    rf"regions/{_REGION}/keys/{_KEY}/versions/(?P<version>[1-9][0-9]{{0,9}})", re.ASCII
)
_GRANT_NAME: Final = re.compile(
    rf"regions/{_REGION}/keys/{_KEY}/grants/{_KEY.replace('key', 'grant')}", re.ASCII
)
_ALIAS_NAME: Final = re.compile(rf"regions/{_REGION}/aliases/{_ALIAS}", re.ASCII)


class ResourceNameError(ValueError):
    """The text is not a resource name of the wanted kind."""


@dataclass(frozen=True, slots=True)
class RegionName:
    """The name of a shard: ``regions/{region}``."""

    region: str

    @classmethod
    def parse(cls, text: str) -> RegionName:
        """Parse `text`.

        Raises:
            ResourceNameError: It is not ``regions/{region}``.
        """
        match = _REGION_NAME.fullmatch(text)
        if match is None:
            raise ResourceNameError("expected regions/{region}")
        return cls(match["region"])

    def __str__(self) -> str:
        return f"regions/{self.region}"


@dataclass(frozen=True, slots=True)
class KeyName:
    """The name of a key: ``regions/{region}/keys/{uuid}``."""

    region: str
    key_id: uuid.UUID

    @classmethod
    def parse(cls, text: str) -> KeyName:
        """Parse `text`.

        Raises:
            ResourceNameError: It is not ``regions/{region}/keys/{uuid}``.
        """
        match = _KEY_NAME.fullmatch(text)
        if match is None:
            raise ResourceNameError("expected regions/{region}/keys/{uuid}")
        return cls(match["region"], uuid.UUID(match["key"]))

    def __str__(self) -> str:
        return f"regions/{self.region}/keys/{self.key_id}"


@dataclass(frozen=True, slots=True)
class KeyVersionName:
    """The name of a key version: ``regions/{region}/keys/{uuid}/versions/{n}``."""

    region: str
    key_id: uuid.UUID
    version: int

    @classmethod
    def parse(cls, text: str) -> KeyVersionName:
        """Parse `text`.

        Raises:
            ResourceNameError: It is not the name of a key version.
        """
        match = _VERSION_NAME.fullmatch(text)
        if match is None or int(match["version"]) > MAX_VERSION:
            raise ResourceNameError("expected regions/{region}/keys/{uuid}/versions/{n}")
        return cls(match["region"], uuid.UUID(match["key"]), int(match["version"]))

    @property
    def key(self) -> KeyName:
        """The key that this is a version of."""
        return KeyName(self.region, self.key_id)

    def __str__(self) -> str:
        return f"regions/{self.region}/keys/{self.key_id}/versions/{self.version}"


@dataclass(frozen=True, slots=True)
class GrantName:
    """The name of a grant: ``regions/{region}/keys/{uuid}/grants/{uuid}``."""

    region: str
    key_id: uuid.UUID
    grant_id: uuid.UUID

    @classmethod
    def parse(cls, text: str) -> GrantName:
        """Parse `text`.

        Raises:
            ResourceNameError: It is not the name of a grant.
        """
        match = _GRANT_NAME.fullmatch(text)
        if match is None:
            raise ResourceNameError("expected regions/{region}/keys/{uuid}/grants/{uuid}")
        return cls(match["region"], uuid.UUID(match["key"]), uuid.UUID(match["grant"]))

    @property
    def key(self) -> KeyName:
        """The key that it is a grant of."""
        return KeyName(self.region, self.key_id)

    def __str__(self) -> str:
        return f"regions/{self.region}/keys/{self.key_id}/grants/{self.grant_id}"


@dataclass(frozen=True, slots=True)
class AliasName:
    """The name of an alias: ``regions/{region}/aliases/{alias}``."""

    region: str
    alias: str

    @classmethod
    def parse(cls, text: str) -> AliasName:
        """Parse `text`.

        Raises:
            ResourceNameError: It is not ``regions/{region}/aliases/{alias}``.
        """
        match = _ALIAS_NAME.fullmatch(text)
        if match is None or len(match["alias"]) > MAX_ALIAS_CHARACTERS:
            raise ResourceNameError(
                "expected regions/{region}/aliases/{alias} with 1 to 256 letters, "
                "digits, '_' or '-' in parts divided by '/'"
            )
        return cls(match["region"], match["alias"])

    def __str__(self) -> str:
        return f"regions/{self.region}/aliases/{self.alias}"


def parse_key_or_alias(text: str) -> KeyName | AliasName:
    """Parse the name of a key or of an alias.

    Raises:
        ResourceNameError: It is neither.
    """
    match = _KEY_NAME.fullmatch(text)
    if match is not None:
        return KeyName(match["region"], uuid.UUID(match["key"]))
    match = _ALIAS_NAME.fullmatch(text)
    if match is not None and len(match["alias"]) <= MAX_ALIAS_CHARACTERS:
        return AliasName(match["region"], match["alias"])
    raise ResourceNameError(
        "expected regions/{region}/keys/{uuid} or regions/{region}/aliases/{alias}"
    )
