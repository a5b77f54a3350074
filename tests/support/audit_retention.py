"""A log whose records have times, copies of it, and damage to files."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

from tests.support.audit_records import LogHome, record

from strongroom_auditlog.log import ShardBatch
from strongroom_auditlog.records import Position
from strongroom_auditlog.tiles import TILE_WIDTH

__all__ = [
    "FULL",
    "SIZE",
    "damage_bit",
    "damage_cut",
    "damage_missing",
    "grow",
    "names",
    "time_of",
]

SIZE = 3000
FULL = SIZE // TILE_WIDTH  # 11 bundles
DAY = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def time_of(leaf: int) -> str:
    """Return the time of a leaf's record: a day for each bundle."""
    moment = DAY + dt.timedelta(days=leaf // TILE_WIDTH, seconds=leaf % TILE_WIDTH)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def grow(home: LogHome, *, start: int, end: int) -> list[bytes]:
    """Append leaves `start` to `end` of two shards in turns, in batches of 100."""
    log = home.open()
    made: list[bytes] = []
    for first in range(start, end, 100):
        count = min(100, end - first)
        region, epoch = (("eu-1", 5), ("us-1", 7))[first // 100 % 2]
        _, sequence = log.next_position(region) or (epoch, 1)
        records = tuple(
            record(region, epoch, sequence + i, time=time_of(first + i)) for i in range(count)
        )
        log.append([ShardBatch(Position(region, epoch, sequence), records)])
        made += records
    log.close()
    return made


def names(directory: Path) -> list[str]:
    """Return the files below a directory."""
    return sorted(
        str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()
    )


def damage_missing(path: Path) -> None:
    """Remove a file."""
    path.unlink()


def damage_bit(path: Path) -> None:
    """Flip a bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def damage_cut(path: Path) -> None:
    """Cut the last byte off a file."""
    os.truncate(path, path.stat().st_size - 1)
