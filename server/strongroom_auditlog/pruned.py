"""The mark of pruning: below which leaf the records of a log are gone.

    log/pruned    {"archive":"…","minimum_index":N,"schema":"strongroom.audit-pruned.v1",
                   "shards":{"eu-1":[epoch, next sequence]}}

`minimum_index` is that of C2SP tlog-tiles, "Pruning" (docs/formats/audit-archive-v1.md).
Nobody signs the mark: it says where to look, and is never a reason to believe a record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from strongroom.tlog.errors import VerificationError
from strongroom_auditlog.records import MAX_POSITION, is_region

__all__ = ["MAX_MARK_BYTES", "NOT_PRUNED", "PRUNED", "PrunedMark"]

PRUNED: Final = "pruned"
SCHEMA: Final = "strongroom.audit-pruned.v1"
MAX_MARK_BYTES: Final = 2**20
_BUNDLE: Final = 256  # leaves; bundles are pruned whole
_MAX_ARCHIVE_CHARACTERS: Final = 4096


@dataclass(frozen=True, slots=True)
class PrunedMark:
    """What was pruned."""

    minimum_index: int
    """Records below this leaf are gone; a multiple of 256."""
    archive: str
    """Where they are, for people."""
    shards: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Region -> (epoch, next sequence) at that leaf."""

    def encode(self) -> bytes:
        """Return the file's bytes."""
        members = {
            "archive": self.archive,
            "minimum_index": self.minimum_index,
            "schema": SCHEMA,
            "shards": {region: list(at) for region, at in sorted(self.shards.items())},
        }
        return json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def parse(cls, data: bytes) -> PrunedMark:
        """Parse the file's bytes.

        Raises:
            VerificationError: They are not what `encode` writes.
        """
        if len(data) > MAX_MARK_BYTES:
            _refuse(f"longer than {MAX_MARK_BYTES} bytes")
        try:
            members: Any = json.loads(data)
        except (ValueError, RecursionError) as exc:
            raise VerificationError(PRUNED, "not UTF-8 JSON") from exc
        if type(members) is not dict or members.get("schema") != SCHEMA:
            _refuse(f"schema is not {SCHEMA}")
        minimum, archive = members.get("minimum_index"), members.get("archive")
        shards = members.get("shards")
        if type(minimum) is not int or not 0 < minimum <= MAX_POSITION or minimum % _BUNDLE:
            _refuse(f"minimum_index is not a multiple of {_BUNDLE} above 0")
        # Printable: it ends up on terminals, and lone surrogates cannot be written again.
        if type(archive) is not str or not archive.isprintable():
            _refuse("archive is missing or not printable")
        if not 0 < len(archive) <= _MAX_ARCHIVE_CHARACTERS:
            _refuse("archive is empty or too long")
        if type(shards) is not dict or not all(map(_is_place, shards.items())):
            _refuse("shards is not an object of region to [epoch, next sequence]")
        mark = cls(minimum, archive, {region: tuple(at) for region, at in shards.items()})
        if mark.encode() != data:
            _refuse("not in its only spelling")
        return mark


NOT_PRUNED: Final = PrunedMark(0, "")
"""The mark of a log that has all its records."""


def _is_place(item: tuple[str, Any]) -> bool:
    region, at = item
    return (
        is_region(region)
        and type(at) is list
        and len(at) == 2  # noqa: PLR2004 - epoch, next sequence
        and all(type(number) is int and 0 < number <= MAX_POSITION for number in at)
    )


def _refuse(what: str) -> NoReturn:
    raise VerificationError(PRUNED, what)
