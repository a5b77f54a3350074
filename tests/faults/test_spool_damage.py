"""A5: the spool cut and flipped at every byte of its last records.

The start either has every record as it was, up to a point nobody was answered beyond,
or is refused.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support import spool as support

from strongroom_server.audit.files import NumberFile
from strongroom_server.audit.journal import Journal
from strongroom_server.audit.recovery import ACKNOWLEDGED, DURABLE, open_spool
from strongroom_server.audit.segment import HEADER_BYTES, parse_frame, parse_header, scan_frames
from strongroom_server.errors import StartRefusedError

RECORDS = 8
DAMAGED_FRAMES = 3


def recovered_records(directory: Path) -> list[bytes]:
    """Open and close the spool; return the records that its segments have afterwards."""
    journal = Journal(directory)
    opened = open_spool(directory, support.REGION, 1, journal)
    journal.close()
    os.close(opened.lock)
    records: list[bytes] = []
    for span in opened.recovered.spans:
        data = span.path.read_bytes()
        header = parse_header(data)
        assert header is not None
        scan = scan_frames(data, header)
        offset = HEADER_BYTES
        while (frame := parse_frame(data, offset)) is not None:
            records.append(frame.record)
            offset = frame.end
        assert offset == scan.end == span.end
    assert opened.recovered.last_sequence == len(records)
    return records


@pytest.fixture
def crashed(tmp_path: Path) -> Path:
    """A spool of eight commits of one record, as a kill leaves it."""

    async def fill() -> None:
        spool = await support.open_spool(tmp_path / "spool")
        for _ in range(RECORDS):
            await spool.append(support.make_draft())
        shutil.copytree(tmp_path / "spool", tmp_path / "crashed")
        await spool.close()

    asyncio.run(fill())
    return tmp_path / "crashed"


def segment_of(directory: Path) -> Path:
    (path,) = directory.glob("*.seg")
    return path


def frame_offsets(data: bytes) -> list[int]:
    """Return where each frame begins, and where the last one ends."""
    offsets = [HEADER_BYTES]
    while (frame := parse_frame(data, offsets[-1])) is not None:
        offsets.append(frame.end)
    return offsets


def try_each(
    crashed: Path, change: Callable[[bytes, int], bytes], positions: range
) -> dict[int, list[bytes] | None]:
    """Start on the segment changed at each position; None where it is refused."""
    path = segment_of(crashed)
    original = path.read_bytes()
    outcomes: dict[int, list[bytes] | None] = {}
    for position in positions:
        path.write_bytes(change(original, position))
        try:
            outcomes[position] = recovered_records(crashed)
        except StartRefusedError:
            assert path.read_bytes() == change(original, position), "a refusal changes nothing"
            outcomes[position] = None
    path.write_bytes(original)
    return outcomes


def cut(data: bytes, position: int) -> bytes:
    return data[:position]


def flip(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0x04]) + data[position + 1 :]


def test_cut_at_every_byte_keeps_every_whole_frame(crashed: Path):
    """A segment cut anywhere in its last frames starts with all frames before the cut."""
    data = segment_of(crashed).read_bytes()
    offsets = frame_offsets(data)
    records = recovered_records(crashed)
    assert len(records) == RECORDS
    positions = range(offsets[-1 - DAMAGED_FRAMES], len(data))
    for position, found in try_each(crashed, cut, positions).items():
        whole = sum(1 for end in offsets[1:] if end <= position)
        assert found == records[:whole]


def test_flip_of_every_byte_is_refused_or_cut(crashed: Path):
    """A flip in the last commit ends the spool before it; in an earlier one it is refused."""
    data = segment_of(crashed).read_bytes()
    offsets = frame_offsets(data)
    records = recovered_records(crashed)
    positions = range(offsets[-1 - DAMAGED_FRAMES], len(data))
    for position, found in try_each(crashed, flip, positions).items():
        # A later commit is written only when the one before is durable: it proves damage.
        expected = records[:-1] if position >= offsets[-2] else None
        assert found == expected


@pytest.mark.parametrize("mark", [ACKNOWLEDGED, DURABLE])
@pytest.mark.parametrize("change", [cut, flip])
def test_damage_below_a_mark_is_refused(
    crashed: Path, mark: str, change: Callable[[bytes, int], bytes]
):
    """What is acknowledged, or was durable at a clean stop, must be there whole."""
    NumberFile(crashed / mark).store(RECORDS)
    data = segment_of(crashed).read_bytes()
    positions = range(frame_offsets(data)[-1 - DAMAGED_FRAMES], len(data), 3)
    assert set(try_each(crashed, change, positions).values()) == {None}


def test_damaged_header_is_refused(crashed: Path):
    """A header is whole from its segment's first moment: any flip in it is damage."""
    outcomes = try_each(crashed, flip, range(HEADER_BYTES))
    assert all(found is None for found in outcomes.values())


def test_torn_commit_of_several_records_is_cut(tmp_path: Path):
    """Of a commit that was torn in its middle nothing proves the damage: it is cut there."""

    async def fill() -> None:
        spool = await support.open_spool(tmp_path / "spool")
        await spool.append(support.make_draft())
        await asyncio.gather(*(spool.append(support.make_draft()) for _ in range(5)))
        shutil.copytree(tmp_path / "spool", tmp_path / "crashed")
        await spool.close()

    asyncio.run(fill())
    crashed = tmp_path / "crashed"
    records = recovered_records(crashed)
    data = segment_of(crashed).read_bytes()
    offsets = frame_offsets(data)
    outcomes = try_each(crashed, flip, range(offsets[3], offsets[4], 7))
    assert all(found == records[:3] for found in outcomes.values())


def test_missing_or_foreign_segments_are_refused(tmp_path: Path):
    """A lost, damaged or foreign segment before the last refuses the start."""

    async def fill(directory: Path) -> None:
        spool = await support.open_spool(directory, segment_bytes=1024)
        for _ in range(12):
            await spool.append(support.make_draft())
        await spool.close()

    async def fill_both() -> None:
        await fill(tmp_path / "spool")
        await asyncio.sleep(0.002)
        await fill(tmp_path / "foreign")

    asyncio.run(fill_both())
    names = sorted(path.name for path in (tmp_path / "spool").glob("*.seg"))
    assert len(names) > 3
    for damage in ("lost", "cut", "flipped", "foreign"):
        for name in names:
            copy = tmp_path / f"{damage}-{name}"
            shutil.copytree(tmp_path / "spool", copy)
            path = copy / name
            if damage == "lost":
                path.unlink()
            elif damage == "foreign":
                shutil.copyfile(tmp_path / "foreign" / name, path)
            else:
                data = path.read_bytes()
                path.write_bytes(data[:-1] if damage == "cut" else flip(data, len(data) - 9))
            with pytest.raises(StartRefusedError):
                recovered_records(copy)
    assert len(recovered_records(tmp_path / "spool")) == 12


@pytest.mark.parametrize("name", ["epoch", "acknowledged", "durable"])
@pytest.mark.parametrize("content", ["", "7\n", f"{7:020d}", "x" * 21])
def test_damaged_number_files_are_refused(crashed: Path, name: str, content: str):
    """A number file that is not 20 digits and a line feed refuses the start."""
    (crashed / name).write_text(content)
    with pytest.raises(StartRefusedError, match="20 digits"):
        recovered_records(crashed)


@pytest.mark.parametrize("name", ["epoch", "acknowledged"])
def test_missing_number_files_are_refused(crashed: Path, name: str):
    """A spool with records and without its epoch or mark is not taken for a new one."""
    (crashed / name).unlink()
    with pytest.raises(StartRefusedError, match="missing"):
        recovered_records(crashed)


def test_lost_segments_are_refused(crashed: Path):
    """A spool whose mark says more than its segments have is not begun anew."""
    NumberFile(crashed / ACKNOWLEDGED).store(RECORDS)
    segment_of(crashed).unlink()
    with pytest.raises(StartRefusedError, match=r"all segments are missing.*Restore"):
        recovered_records(crashed)
