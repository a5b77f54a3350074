"""Pruned logs: nothing is lost, every proof stays, and nothing stays unnoticed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from tests.support.audit_records import LogHome, receipt_of, record
from tests.support.audit_retention import (
    SIZE,
    damage_bit,
    damage_cut,
    damage_missing,
    grow,
    names,
)

from strongroom.tlog.errors import VerificationError
from strongroom.tlog.merkle import leaf_hash
from strongroom.tlog.proof import verify_proof
from strongroom_auditlog.errors import (
    ArchiveError,
    EntryArchivedError,
    EntryInvalidError,
    StartRefusedError,
    TileInvalidError,
)
from strongroom_auditlog.proofs import prove_consistency, prove_inclusion, prove_receipt
from strongroom_auditlog.pruned import PRUNED, PrunedMark
from strongroom_auditlog.records import Position
from strongroom_auditlog.retention.archiving import archive_log
from strongroom_auditlog.retention.bounds import Bound
from strongroom_auditlog.retention.directory_store import DirectoryStore
from strongroom_auditlog.retention.entries import Entries
from strongroom_auditlog.retention.pruning import prune_log
from strongroom_auditlog.retention.store import ArchiveFiles
from strongroom_auditlog.tiles import TILE_WIDTH, LogFiles, entries_path
from strongroom_auditlog.verify import read_checkpoint, verify_log


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[LogHome, list[bytes]]:
    """Give a log of 3,000 records, which tests copy."""
    home = LogHome.create(tmp_path_factory.mktemp("grown") / "home")
    return home, grow(home, start=0, end=SIZE)


@pytest.fixture
def home(grown: tuple[LogHome, list[bytes]], tmp_path: Path) -> LogHome:
    """Give a log of one's own."""
    shutil.copytree(grown[0].root, tmp_path / "home")
    return LogHome(tmp_path / "home", grown[0].signer)


@pytest.fixture
def records(grown: tuple[LogHome, list[bytes]]) -> list[bytes]:
    """Give the records by leaf."""
    return grown[1]


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    """Give an archive that was not begun."""
    (tmp_path / "archive").mkdir()
    return DirectoryStore.open(tmp_path / "archive")


@pytest.fixture
def pruned(home: LogHome, store: DirectoryStore) -> LogHome:
    """Give a log whose first 8 bundles are in the archive alone."""
    files = LogFiles(home.directory)
    archive_log(files, home.key, store)
    done = prune_log(files, home.key, store, bound=Bound(before_leaf=8 * TILE_WIDTH + 5))
    assert (done.minimum_index, done.removed_records) == (8 * TILE_WIDTH, 8 * TILE_WIDTH)
    return home


def test_a_pruned_log_starts_appends_and_proves(pruned, store, records):
    """After pruning: start, append, every inclusion and consistency proof, old and new."""
    del store
    files = LogFiles(pruned.directory)
    old = read_checkpoint(files, pruned.key)
    more = grow(pruned, start=SIZE, end=SIZE + 300)
    files = LogFiles(pruned.directory)
    new = read_checkpoint(files, pruned.key)
    assert new.size == SIZE + 300
    everything = records + more
    for leaf in (0, 255, 256, 8 * TILE_WIDTH - 1, 8 * TILE_WIDTH, SIZE, new.size - 1):
        verify_proof(prove_inclusion(files, new, leaf), record=everything[leaf], key=pruned.key)
    assert prove_consistency(files, new, old.size, new.size)
    assert not (pruned.directory / entries_path(7)).exists()
    assert (pruned.directory / entries_path(8)).exists()


def test_repeats_of_pruned_records_are_still_compared(pruned, records):
    """A shard that replays what was pruned is told apart from one that alters it."""
    log = pruned.open()
    first = Position("eu-1", 5, 1)
    assert log.holds(first, records[0])
    assert not log.holds(first, record("eu-1", 5, 1, outcome="DENIED"))
    assert log.find(first) == 0
    assert log.find(Position("eu-1", 5, 10_000)) is None
    log.close()


def test_the_position_index_is_made_again_with_and_without_the_archive(pruned, store, records):
    """Without the archive what lies below the mark stays as it was; with it all comes back."""
    with sqlite3.connect(pruned.state_file) as database:
        before = database.execute("SELECT * FROM runs ORDER BY first_leaf").fetchall()
        database.execute("DELETE FROM runs WHERE first_leaf >= 2500")
    pruned.open().close()
    with sqlite3.connect(pruned.state_file) as database:
        assert database.execute("SELECT * FROM runs ORDER BY first_leaf").fetchall() == before
        database.execute("DELETE FROM runs")
    log = pruned.open()
    assert log.find(Position("eu-1", 5, 1)) is None
    assert log.holds(Position("us-1", 7, 1200), records[8 * TILE_WIDTH + 300]) in (True, False)
    log.close()
    log = pruned.open(archive=ArchiveFiles(store))
    assert log.find(Position("eu-1", 5, 1)) == 0
    log.close()
    with sqlite3.connect(pruned.state_file) as database:
        assert database.execute("SELECT * FROM runs ORDER BY first_leaf").fetchall() == before


def test_a_pruned_log_verifies_in_full_with_the_archive(pruned, store, records):
    """With the archive as if nothing had been pruned; without it the answer says what it saw."""
    receipts = [receipt_of(records[leaf]) for leaf in (0, 2000, 2999)]
    whole = verify_log(pruned.directory, pruned.key, archive=store, receipts=receipts)
    assert whole.unread == 0
    assert sorted(whole.receipts.values()) == [0, 2000, 2999]
    part = verify_log(pruned.directory, pruned.key, receipts=receipts[2:])
    assert part.unread == 8 * TILE_WIDTH
    assert part.shards == whole.shards == {"eu-1": (5, 1500), "us-1": (7, 1500)}
    with pytest.raises(EntryArchivedError, match="in the archive"):
        verify_log(pruned.directory, pruned.key, receipts=receipts[:1])
    with pytest.raises(EntryArchivedError, match="in the archive"):
        prove_receipt(pruned.directory, pruned.key, receipts[0])


def test_workers_read_the_archive_too(pruned, store):
    """Verification by several processes gives the same answer."""
    alone = verify_log(pruned.directory, pruned.key, archive=store, workers=1)
    assert verify_log(pruned.directory, pruned.key, archive=store, workers=2) == alone
    part = verify_log(pruned.directory, pruned.key, workers=2)
    assert part.unread == 8 * TILE_WIDTH


@pytest.mark.parametrize("at", ["log", "archive"])
def test_a_flipped_bit_is_found_in_log_and_archive(pruned, store, at):
    """Bundles above the mark in the log, bundles below it in the archive, tiles in both."""
    base = pruned.directory if at == "log" else store.directory
    flipped = [entries_path(9)] if at == "log" else [entries_path(3)]
    if at == "log":
        flipped += ["tile/0/003", "tile/0/009", "tile/1/000.p/11", "checkpoint", PRUNED]
    for name in flipped:
        path = base / name
        original = path.read_bytes()
        data = bytearray(original)
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(VerificationError):
            verify_log(pruned.directory, pruned.key, archive=store)
        path.write_bytes(original)
    assert verify_log(pruned.directory, pruned.key, archive=store).unread == 0


def test_a_bundle_that_is_missing_above_the_mark_is_damage(pruned, store):
    """The mark excuses nothing but what lies below it."""
    (pruned.directory / entries_path(9)).unlink()
    for archive in (None, store):
        with pytest.raises(EntryInvalidError, match="missing") as caught:
            verify_log(pruned.directory, pruned.key, archive=archive)
        assert not isinstance(caught.value, EntryArchivedError)


def test_a_mark_above_the_log_is_refused(pruned):
    """A mark that lies about more than there is does not verify."""
    mark = LogFiles(pruned.directory).read_mark()
    forged = PrunedMark(TILE_WIDTH * 100, mark.archive, mark.shards)
    (pruned.directory / PRUNED).write_bytes(forged.encode())
    with pytest.raises(VerificationError, match="above the signed size"):
        verify_log(pruned.directory, pruned.key)


def test_a_forged_mark_shows(home, records):
    """Deleting records under a mark of one's own leaves their hashes, and the answer says so."""
    mark = PrunedMark(TILE_WIDTH, "nowhere", {"eu-1": (5, 129), "us-1": (7, 129)})
    (home.directory / PRUNED).write_bytes(mark.encode())
    (home.directory / entries_path(0)).unlink()
    with pytest.raises(VerificationError, match=r"gap|repeats"):
        verify_log(home.directory, home.key)  # the shards stood elsewhere
    mark = PrunedMark(TILE_WIDTH, "nowhere", {"eu-1": (5, 157), "us-1": (7, 101)})
    (home.directory / PRUNED).write_bytes(mark.encode())
    verified = verify_log(home.directory, home.key)
    assert verified.unread == TILE_WIDTH
    assert LogFiles(home.directory).subtree_hash(SIZE, 0, 7) == leaf_hash(records[7])


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m | {"minimum_index": 255},
        lambda m: m | {"minimum_index": 0},
        lambda m: m | {"minimum_index": True},
        lambda m: m | {"archive": ""},
        lambda m: m | {"archive": "a\nb"},
        lambda m: m | {"shards": {"EU": [1, 1]}},
        lambda m: m | {"shards": {"eu-1": [1]}},
        lambda m: m | {"shards": {"eu-1": [0, 1]}},
        lambda m: m | {"schema": "strongroom.audit-pruned.v2"},
        lambda m: m | {"more": 1},
    ],
)
def test_marks_are_parsed_strictly(change):
    """A mark has one spelling, and nothing else in it."""
    mark = PrunedMark(256, "/archive", {"eu-1": (5, 129)})
    assert PrunedMark.parse(mark.encode()) == mark
    with pytest.raises(VerificationError):
        PrunedMark.parse(json.dumps(change(json.loads(mark.encode()))).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b'{"archive":"\\ud800"}'])
def test_what_is_no_mark_is_refused(data):
    """Anything but a mark is one error."""
    with pytest.raises(VerificationError):
        PrunedMark.parse(data)


@pytest.mark.parametrize("damage", [damage_missing, damage_bit, damage_cut])
def test_what_the_archive_does_not_provably_have_is_not_pruned(home, store, damage):
    """Missing, altered, cut: pruning stops before it, and removes nothing of its step."""
    files = LogFiles(home.directory)
    archive_log(files, home.key, store)
    damage(store.directory / entries_path(6))
    before = names(home.directory)
    with pytest.raises((ArchiveError, VerificationError)):
        prune_log(files, home.key, store, bound=Bound(before_leaf=SIZE))
    assert names(home.directory) == before


def test_records_of_another_bundle_are_not_taken_for_it(home, store):
    """A swap in the archive is found, though each bundle is whole and of this log."""
    files = LogFiles(home.directory)
    archive_log(files, home.key, store)
    one, two = (store.directory / entries_path(n) for n in (2, 3))
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)
    with pytest.raises(ArchiveError, match="not the records that the log signed"):
        prune_log(files, home.key, store, bound=Bound(before_leaf=SIZE))


def test_a_crash_between_mark_and_removal_is_cleaned_up(home, store):
    """Bundles that stayed below the mark go the next time; meanwhile all reads work."""
    files = LogFiles(home.directory)
    archive_log(files, home.key, store)
    saved = {n: (home.directory / entries_path(n)).read_bytes() for n in range(4)}
    prune_log(files, home.key, store, bound=Bound(before_leaf=4 * TILE_WIDTH))
    for n, data in saved.items():
        (home.directory / entries_path(n)).write_bytes(data)
    assert verify_log(home.directory, home.key, archive=store).unread == 0
    done = prune_log(files, home.key, store, bound=Bound(before_leaf=4 * TILE_WIDTH))
    assert done.freed_bytes == sum(map(len, saved.values()))
    assert not any((home.directory / entries_path(n)).exists() for n in saved)


def test_two_prunings_exclude_each_other(home, store):
    """The second one says so and changes nothing."""
    files = LogFiles(home.directory)
    archive_log(files, home.key, store)
    descriptor = os.open(home.directory / "tile" / "entries", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(ArchiveError, match="another pruning"):
        prune_log(files, home.key, store, bound=Bound())
    os.close(descriptor)
    assert files.read_mark().minimum_index == 0


def test_pruning_needs_an_archive(home, store):
    """An empty directory is none."""
    with pytest.raises(ArchiveError, match="no archive"):
        prune_log(LogFiles(home.directory), home.key, store, bound=Bound())


def test_a_start_says_what_is_missing_above_the_mark(pruned):
    """Pruning does not hide damage from a start that makes the index again."""
    (pruned.directory / entries_path(10)).unlink()
    with sqlite3.connect(pruned.state_file) as database:
        database.execute("DELETE FROM runs")
    with pytest.raises(StartRefusedError, match="missing"):
        pruned.open()


def test_entries_are_read_wherever_they_are(pruned, store, records):
    """The log's readers get pruned records from the archive, compared with the log's tile."""
    files = LogFiles(pruned.directory)
    whole = Entries(files, ArchiveFiles(store))
    assert whole.first_readable() == 0
    assert [e for n in range(12) for e in whole.read(n, SIZE)] == records
    part = Entries(files)
    assert part.first_readable() == 8 * TILE_WIDTH
    with pytest.raises(EntryArchivedError):
        part.read(7, SIZE)
    other = (store.directory / entries_path(1)).read_bytes()
    (store.directory / entries_path(7)).write_bytes(other)
    with pytest.raises(TileInvalidError):
        Entries(files, ArchiveFiles(store)).read(7, SIZE)
