"""Archives in a directory: complete, verified, resumed, and refused where they do not fit."""

from __future__ import annotations

import datetime as dt
import json
import random
import shutil
from pathlib import Path

import pytest
from tests.support.audit_records import LogHome, batch, receipt_of, record
from tests.support.audit_retention import (
    FULL,
    SIZE,
    damage_bit,
    damage_cut,
    grow,
    names,
    time_of,
)

from strongroom.tlog.errors import CheckpointInvalidError, ReceiptInvalidError
from strongroom.tlog.proof import verify_proof
from strongroom_auditlog.errors import (
    ArchiveError,
    EntryInvalidError,
    TileInvalidError,
)
from strongroom_auditlog.log import create_log
from strongroom_auditlog.retention.archiving import archive_log
from strongroom_auditlog.retention.bounds import Bound, parse_age, parse_moment
from strongroom_auditlog.retention.directory_store import DirectoryStore
from strongroom_auditlog.retention.manifest import Manifest, read_manifest
from strongroom_auditlog.retention.pruning import prune_log
from strongroom_auditlog.retention.restoring import restore_leaf, restore_receipt
from strongroom_auditlog.retention.store import open_store
from strongroom_auditlog.tiles import TILE_WIDTH, LogFiles, entries_path


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


def test_an_archive_has_every_full_bundle_byte_for_byte(home, store):
    """What is there: full bundles, their tiles, the tree above, the checkpoint, the manifest."""
    done = archive_log(LogFiles(home.directory), home.key, store)
    assert (done.records, done.new_records) == (FULL * TILE_WIDTH, FULL * TILE_WIDTH)
    for n in range(FULL):
        for path in (entries_path(n), f"tile/0/{n:03d}"):
            assert (store.directory / path).read_bytes() == (home.directory / path).read_bytes()
    found = names(store.directory)
    assert len([name for name in found if name.startswith("tile/entries/")]) == FULL
    assert set(found) >= {"checkpoint", "manifest.json", "tile/1/000.p/11", "tile/0/011.p/184"}
    manifest = read_manifest(store)
    assert manifest is not None
    assert manifest.bundles == FULL
    assert Manifest.parse(manifest.encode()) == manifest
    (segment,) = manifest.segments
    assert (segment.extent.first_time, segment.extent.last_time) == (
        time_of(0),
        time_of(FULL * TILE_WIDTH - 1),
    )


def test_archiving_again_writes_nothing_and_goes_on_where_it_was(home, store):
    """The second run finds nothing to do; after growth only what is new is added."""
    files = LogFiles(home.directory)
    archive_log(files, home.key, store)
    before = {name: (store.directory / name).stat().st_mtime_ns for name in names(store.directory)}
    again = archive_log(files, home.key, store)
    assert (again.new_records, again.written_files) == (0, 0)
    grow(home, start=SIZE, end=4000)
    more = archive_log(LogFiles(home.directory), home.key, store)
    assert more.records == 4000 // TILE_WIDTH * TILE_WIDTH
    after = {name: (store.directory / name).stat().st_mtime_ns for name in names(store.directory)}
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"manifest.json", "checkpoint"}


class Failing(DirectoryStore):
    """A store whose disk is full after so many files."""

    left = 0

    def write_missing(self, files):
        done = super().write_missing(files[: type(self).left])
        type(self).left -= len(files)
        if type(self).left < 0:
            raise ArchiveError("no space left on device")
        return done


@pytest.mark.parametrize("room", range(0, 33, 2))
def test_an_interrupted_archiving_is_taken_up(home, store, room):
    """Wherever it broke off, nothing is named that is not there, and the next run completes."""
    files = LogFiles(home.directory)
    Failing.left = room
    with pytest.raises(ArchiveError):
        archive_log(files, home.key, Failing(store.directory), segment_bundles=4)
    manifest = read_manifest(store)
    there = manifest.bundles if manifest is not None else 0
    for n in range(there):
        assert (store.directory / entries_path(n)).is_file()
    done = archive_log(files, home.key, store, segment_bundles=4)
    assert done.new_records == (FULL - there) * TILE_WIDTH
    for n in range(FULL):
        path = entries_path(n)
        assert (store.directory / path).read_bytes() == (home.directory / path).read_bytes()


def test_bounds_by_time_and_leaf(home, store):
    """Bundles go whole: the first that has a younger record ends it."""
    files = LogFiles(home.directory)
    bound = Bound.before(parse_moment("2026-01-04"))
    assert archive_log(files, home.key, store, bound=bound).records == 3 * TILE_WIDTH
    bound = Bound(before_leaf=5 * TILE_WIDTH - 1)
    assert archive_log(files, home.key, store, bound=bound).records == 4 * TILE_WIDTH
    archive_log(files, home.key, store)
    done = prune_log(files, home.key, store, bound=Bound.before(parse_moment("2026-01-03")))
    assert done.minimum_index == 2 * TILE_WIDTH
    again = prune_log(files, home.key, store, bound=Bound.before(parse_moment("2026-01-03")))
    assert (again.minimum_index, again.removed_records) == (2 * TILE_WIDTH, 0)


@pytest.mark.parametrize("text", ["", "2026-13", "2026-13-01", "2026-01-01T00:00:00", "yesterday"])
def test_moments_are_dates_or_have_a_zone(text):
    """A moment that means different things in different places is refused."""
    with pytest.raises(ValueError, match=r"isoformat|month|zone"):
        parse_moment(text)


@pytest.mark.parametrize("text", ["", "0d", "90", "-1d", "1m", "1.5d"])
def test_ages_are_hours_days_or_weeks(text):
    """An age is a number and a unit that is not two things at once."""
    assert parse_age("90d") == dt.timedelta(days=90)
    with pytest.raises(ValueError, match="number and h, d or w"):
        parse_age(text)


def test_an_archive_of_another_log_is_refused(home, store, tmp_path):
    """With another key it is neither archived into nor pruned by."""
    other = LogHome.create(tmp_path / "other")
    grow(other, start=0, end=SIZE)
    archive_log(LogFiles(other.directory), other.key, store)
    files = LogFiles(home.directory)
    with pytest.raises(CheckpointInvalidError):
        archive_log(files, home.key, store)
    with pytest.raises(CheckpointInvalidError):
        prune_log(files, home.key, store, bound=Bound())


def test_a_rewritten_log_is_noticed_by_its_archive(home, store, tmp_path):
    """The archive remembers a checkpoint: a fork, or an older copy, is not archived over it."""
    older = tmp_path / "older"
    shutil.copytree(home.directory, older)
    grow(home, start=SIZE, end=SIZE + 500)
    archive_log(LogFiles(home.directory), home.key, store)
    with pytest.raises(ArchiveError, match="older copy"):
        archive_log(LogFiles(older), home.key, store)
    fork_root = tmp_path / "fork"
    fork = LogHome(fork_root, home.signer)
    fork_root.mkdir()
    create_log(fork.directory, fork.state_file, fork.last_checkpoint_file, fork.signer)
    fork.fill(batch("eu-1", 5, range(1, 4001)))
    with pytest.raises(ArchiveError, match="rewritten"):
        archive_log(LogFiles(fork.directory), fork.key, store)
    with pytest.raises(ArchiveError, match="rewritten"):
        prune_log(LogFiles(fork.directory), fork.key, store, bound=Bound())


def test_a_damaged_log_is_not_archived(home, store):
    """What does not lead to the signed root goes nowhere."""
    damage_bit(home.directory / entries_path(4))
    with pytest.raises((TileInvalidError, EntryInvalidError)):
        archive_log(LogFiles(home.directory), home.key, store)
    assert read_manifest(store) is None


def test_a_record_is_restored_by_leaf_and_by_receipt(pruned, store, records):
    """Each leaf of the archive, proven against its own checkpoint and against the log's."""
    log = LogFiles(pruned.directory)
    rng = random.Random(3)  # noqa: S311 - a sample
    for leaf in [0, FULL * TILE_WIDTH - 1, *rng.sample(range(FULL * TILE_WIDTH), 20)]:
        for against in (None, log):
            restored = restore_leaf(store, pruned.key, leaf, log=against)
            assert restored.record == records[leaf]
            verify_proof(restored.proof, record=records[leaf], key=pruned.key)
        found = restore_receipt(store, pruned.key, receipt_of(records[leaf]))
        assert (found.leaf, found.record) == (leaf, records[leaf])


def test_what_the_archive_has_not_is_not_restored(pruned, store, records, tmp_path):
    """Leaves and receipts beyond it, altered receipts, other keys, damaged bundles."""
    with pytest.raises(ArchiveError, match="below leaf"):
        restore_leaf(store, pruned.key, FULL * TILE_WIDTH)
    with pytest.raises(ReceiptInvalidError, match="not among"):
        restore_receipt(store, pruned.key, receipt_of(records[-1]))
    with pytest.raises(ReceiptInvalidError):
        restore_receipt(store, pruned.key, receipt_of(record("eu-1", 5, 1, outcome="DENIED")))
    with pytest.raises(CheckpointInvalidError):
        restore_leaf(store, LogHome.create(tmp_path / "other").key, 0)
    damage_cut(store.directory / entries_path(0))
    with pytest.raises(EntryInvalidError):
        restore_leaf(store, pruned.key, 3)


def test_an_archive_is_not_made_where_no_directory_is(tmp_path):
    """A mount point that is missing is an error, not a new archive on the wrong disk."""
    with pytest.raises(ArchiveError, match="no such directory"):
        open_store(str(tmp_path / "nowhere"))
    with pytest.raises(ArchiveError, match="expected a directory or s3"):
        open_store("https://example.org/archive")
    for location in ("s3://", "s3://B", "s3://bucket/../other", "s3://bucket/a b"):
        with pytest.raises(ArchiveError):
            open_store(location)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["segments"].pop(0),
        lambda m: m["segments"][1].update(first=5),
        lambda m: m["segments"][1].update(sha256="00"),
        lambda m: m["segments"][1].update(last_time="yesterday"),
        lambda m: m["segments"][1].update(shards={"eu-1": [[1, 1]]}),
        lambda m: m["segments"][1].update(more=1),
        lambda m: m.update(bundles=3),
        lambda m: m.update(checkpoint=5),
        lambda m: m.update(schema="other"),
        lambda m: m.pop("checkpoint"),
    ],
)
def test_manifests_are_parsed_strictly(home, store, change):
    """Each member is checked; a gap between segments too."""
    archive_log(LogFiles(home.directory), home.key, store, segment_bundles=4)
    path = store.directory / "manifest.json"
    members = json.loads(path.read_bytes())
    assert len(members["segments"]) == 3
    change(members)
    path.write_text(json.dumps(members))
    with pytest.raises(ArchiveError):
        read_manifest(store)
