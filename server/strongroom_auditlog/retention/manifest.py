"""What an archive has (docs/formats/audit-archive-v1.md): ``manifest.json`` and its segments.

The manifest finds things and proves nothing. It is parsed strictly all the same, for a
mistake in it would send its readers to the wrong place.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn, cast

from strongroom_auditlog.errors import ArchiveError, RecordInvalidError
from strongroom_auditlog.records import MAX_POSITION, is_region, parse_position
from strongroom_auditlog.retention.store import ArchiveStore

__all__ = [
    "MAX_SEGMENT_BUNDLES",
    "Bundle",
    "Extent",
    "Manifest",
    "Segment",
    "read_manifest",
    "read_segment",
]

MANIFEST: Final = "manifest.json"
MAX_SEGMENT_BUNDLES: Final = 4096  # 1,048,576 records, 1 MiB of JSON
MAX_MANIFEST_BYTES: Final = 64 * 2**20  # 30 years of one segment an hour
_SCHEMA: Final = "strongroom.audit-archive.v1"
_SEGMENT_SCHEMA: Final = "strongroom.audit-archive-segment.v1"
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)

Place = tuple[int, int]
"""Epoch and sequence."""


@dataclass(frozen=True, slots=True)
class Extent:
    """The times and positions of some consecutive records."""

    first_time: str
    """Of the earliest record, as it stands in it: such texts compare as their times do."""
    last_time: str
    shards: Mapping[str, tuple[Place, Place]]
    """Region -> its first and its last record."""

    @classmethod
    def of(cls, records: Sequence[bytes]) -> Extent:
        """Read the extent of at least one record.

        Raises:
            RecordInvalidError: One of them is none.
        """
        times: list[str] = []
        shards: dict[str, tuple[Place, Place]] = {}
        for record in records:
            region, epoch, sequence = parse_position(record)
            time = json.loads(record).get("time")
            if type(time) is not str or _TIME.fullmatch(time) is None:
                raise RecordInvalidError("time is not RFC 3339 in UTC with six digits")
            times.append(time)
            first, _ = shards.get(region, ((epoch, sequence), None))
            shards[region] = (first, (epoch, sequence))
        return cls(min(times), max(times), shards)

    def followed_by(self, other: Extent) -> Extent:
        """Return the extent of these records and those that come next."""
        shards = dict(self.shards)
        for region, (first, last) in other.shards.items():
            shards[region] = (shards[region][0] if region in shards else first, last)
        return Extent(
            min(self.first_time, other.first_time), max(self.last_time, other.last_time), shards
        )

    def may_hold(self, region: str, epoch: int, sequence: int) -> bool:
        """Whether the record at a position would lie here."""
        if region not in self.shards:
            return False
        first, last = self.shards[region]
        return first <= (epoch, sequence) <= last

    def members(self) -> dict[str, Any]:
        """Return the members of a JSON object."""
        return {
            "first_time": self.first_time,
            "last_time": self.last_time,
            "shards": dict(sorted(self.shards.items())),
        }

    @classmethod
    def from_members(cls, members: dict[str, Any], where: str) -> Extent:
        """Take the members off `members`.

        Raises:
            ArchiveError: One is missing or malformed.
        """
        times = (members.pop("first_time", None), members.pop("last_time", None))
        shards = members.pop("shards", None)
        if not all(type(time) is str and _TIME.fullmatch(time) for time in times):
            _refuse(where, "a time is malformed")
        if type(shards) is not dict:
            _refuse(where, "shards is no object")
        return cls(*times, {region: _places(region, at, where) for region, at in shards.items()})


@dataclass(frozen=True, slots=True)
class Bundle:
    """An entry bundle of the archive."""

    n: int
    size_bytes: int
    sha256: str
    extent: Extent


@dataclass(frozen=True, slots=True)
class Segment:
    """Bundles `first` to `end` - 1, described in a file of their own."""

    first: int
    end: int
    sha256: str
    """Of that file."""
    extent: Extent

    @property
    def path(self) -> str:
        """Where the file is."""
        return f"manifest/{self.first:010d}-{self.end:010d}.json"

    @classmethod
    def describe(cls, bundles: Sequence[Bundle]) -> tuple[Segment, bytes]:
        """Describe consecutive bundles; return the segment and its file's bytes."""
        extent = bundles[0].extent
        for bundle in bundles[1:]:
            extent = extent.followed_by(bundle.extent)
        data = _encode(
            {
                "schema": _SEGMENT_SCHEMA,
                "first": bundles[0].n,
                "end": bundles[-1].n + 1,
                "bundles": [
                    {"n": b.n, "bytes": b.size_bytes, "sha256": b.sha256, **b.extent.members()}
                    for b in bundles
                ],
            }
        )
        digest = hashlib.sha256(data).hexdigest()
        return cls(bundles[0].n, bundles[-1].n + 1, digest, extent), data


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an archive has; its checkpoint is not opened yet."""

    checkpoint: str
    segments: tuple[Segment, ...]

    @property
    def bundles(self) -> int:
        """How many bundles there are, from 0 on."""
        return self.segments[-1].end if self.segments else 0

    def encode(self) -> bytes:
        """Return the file's bytes."""
        return _encode(
            {
                "schema": _SCHEMA,
                "checkpoint": self.checkpoint,
                "bundles": self.bundles,
                "segments": [
                    {"first": s.first, "end": s.end, "sha256": s.sha256, **s.extent.members()}
                    for s in self.segments
                ],
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Parse the file's bytes.

        Raises:
            ArchiveError: They are malformed, or the segments leave a gap.
        """
        members = _decode(data, MANIFEST, _SCHEMA, {"checkpoint", "bundles", "segments"})
        segments: list[Segment] = []
        for item in _list(members["segments"], MANIFEST):
            extent = Extent.from_members(item, MANIFEST)
            first, end, digest = item.pop("first", None), item.pop("end", None), _digest(item)
            expected = segments[-1].end if segments else 0
            if type(first) is not int or type(end) is not int or item or digest is None:
                _refuse(MANIFEST, "a segment is malformed")
            if first != expected or not 0 < end - first <= MAX_SEGMENT_BUNDLES:
                _refuse(MANIFEST, f"expected a segment from bundle {expected} on")
            segments.append(Segment(first, end, digest, extent))
        manifest = cls(members["checkpoint"], tuple(segments))
        if type(manifest.checkpoint) is not str or members["bundles"] != manifest.bundles:
            _refuse(MANIFEST, "checkpoint or bundles is malformed")
        return manifest


def read_manifest(store: ArchiveStore) -> Manifest | None:
    """Read what an archive has; None for one that was not begun.

    Raises:
        ArchiveError: The manifest is malformed or cannot be read.
    """
    data = store.read(MANIFEST, MAX_MANIFEST_BYTES)
    return None if data is None else Manifest.parse(data)


def read_segment(store: ArchiveStore, segment: Segment) -> list[Bundle]:
    """Read what a segment has.

    Raises:
        ArchiveError: Its file is missing, malformed, or not the one of the manifest.
    """
    where = segment.path
    data = store.read(where, MAX_MANIFEST_BYTES)
    if data is None or hashlib.sha256(data).hexdigest() != segment.sha256:
        _refuse(where, "missing, or not the file that the manifest names")
    members = _decode(data, where, _SEGMENT_SCHEMA, {"first", "end", "bundles"})
    bundles: list[Bundle] = []
    for item in _list(members["bundles"], where):
        extent = Extent.from_members(item, where)
        n, size, digest = item.pop("n", None), item.pop("bytes", None), _digest(item)
        if n != segment.first + len(bundles) or type(size) is not int or item or digest is None:
            _refuse(where, "a bundle is malformed")
        bundles.append(Bundle(n, size, digest, extent))
    if (members["first"], members["end"]) != (segment.first, segment.end):
        _refuse(where, "of other bundles than its name says")
    if len(bundles) != segment.end - segment.first:
        _refuse(where, "has more or fewer bundles than it says")
    return bundles


def _encode(members: dict[str, Any]) -> bytes:
    return json.dumps(members, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _decode(data: bytes, where: str, schema: str, names: set[str]) -> dict[str, Any]:
    if len(data) > MAX_MANIFEST_BYTES:
        _refuse(where, f"longer than {MAX_MANIFEST_BYTES} bytes")
    try:
        members = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise ArchiveError(f"{where}: not UTF-8 JSON") from exc
    if type(members) is not dict or members.pop("schema", None) != schema:
        _refuse(where, f"schema is not {schema}")
    if set(members) != names:
        _refuse(where, f"expected the members {', '.join(sorted(names))}")
    return members


def _list(value: Any, where: str) -> list[dict[str, Any]]:
    if type(value) is not list or not all(type(item) is dict for item in value):
        _refuse(where, "expected an array of objects")
    return value


def _digest(item: dict[str, Any]) -> str | None:
    digest = item.pop("sha256", None)
    return digest if type(digest) is str and _SHA256.fullmatch(digest) else None


def _places(region: str, at: Any, where: str) -> tuple[Place, Place]:
    places = [_place(value) for value in at] if type(at) is list else []
    if not is_region(region) or len(places) != 2 or None in places:  # noqa: PLR2004 - first, last
        _refuse(where, "shards is malformed")
    first, last = places
    return cast("Place", first), cast("Place", last)


def _place(value: Any) -> Place | None:
    if type(value) is not list or len(value) != 2:  # noqa: PLR2004 - epoch, sequence
        return None
    epoch, sequence = value
    if type(epoch) is not int or type(sequence) is not int:
        return None
    return (epoch, sequence) if min(value) > 0 and max(value) <= MAX_POSITION else None


def _refuse(where: str, what: str) -> NoReturn:
    raise ArchiveError(f"{where}: {what}")
