"""Tags of keys: words for programs, such as a team or a cost centre. Never secret.

Limits as in AWS KMS: 50 tags, names of 1 to 128 characters, values of at most 256.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from strongroom_server.errors import ArgumentInvalidError

__all__ = ["MAX_TAGS", "Tags", "check_tags", "with_tags", "without_tags"]

MAX_TAGS: Final = 50
MAX_NAME_CHARACTERS: Final = 128
MAX_VALUE_CHARACTERS: Final = 256
RESERVED_PREFIX: Final = "strongroom:"

Tags = tuple[tuple[str, str], ...]
"""Ascending by name, each name once."""


def check_tags(tags: Mapping[str, str]) -> Tags:
    """Check tags that a caller gives.

    Raises:
        ArgumentInvalidError: A name or value breaks a rule, or they are too many.
    """
    for name, value in tags.items():
        if not 1 <= len(name) <= MAX_NAME_CHARACTERS or len(value) > MAX_VALUE_CHARACTERS:
            raise _refuse("tags.size", "names of 1 to 128 characters, values of at most 256")
        # Spaces are printable, line ends and other control characters are not: a tag stands
        # on one line of a list, whatever is in it.
        if not (name.isprintable() and value.isprintable()):
            raise _refuse("tags.characters", "control characters are not allowed")
        if name.startswith(RESERVED_PREFIX):
            raise _refuse("tags.reserved", f"{RESERVED_PREFIX} is reserved")
    return _counted(tags)


def with_tags(before: Tags, added: Mapping[str, str]) -> Tags:
    """Return tags with others set; `added` has been checked.

    Raises:
        ArgumentInvalidError: They are more than 50 together.
    """
    return _counted(dict(before) | dict(added))


def without_tags(before: Tags, names: Iterable[str]) -> Tags:
    """Return tags without those of some names."""
    gone = frozenset(names)
    return tuple(tag for tag in before if tag[0] not in gone)


def _counted(tags: Mapping[str, str]) -> Tags:
    if len(tags) > MAX_TAGS:
        raise _refuse("tags.count", f"a key has at most {MAX_TAGS} tags")
    return tuple(sorted(tags.items()))


def _refuse(rule: str, description: str) -> ArgumentInvalidError:
    return ArgumentInvalidError.of("tags", rule, description)
