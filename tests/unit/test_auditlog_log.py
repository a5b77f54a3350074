"""The log that grows: appending, reopening, and refusing to fork."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support.audit_records import ORIGIN, LogHome, batch, record

from strongroom.tlog.checkpoint import open_checkpoint
from strongroom_auditlog.checkpoint import Signer
from strongroom_auditlog.errors import ForkRefusedError, LogError, StartRefusedError
from strongroom_auditlog.log import ShardBatch, create_log
from strongroom_auditlog.records import Position
from strongroom_auditlog.verify import verify_log


def copy_of(home: LogHome, to: Path) -> Path:
    """Copy log and state, as a backup would."""
    shutil.copytree(home.root, to)
    return to


@pytest.fixture
def home(tmp_path: Path) -> LogHome:
    """Give an empty log."""
    return LogHome.create(tmp_path / "home")


def test_records_enter_in_order_and_are_found(home: LogHome) -> None:
    """Every record of several shards and epochs is found at its leaf after a restart."""
    home.fill(
        batch("eu-1", 5, range(1, 301)),
        batch("us-1", 6, range(1, 11)),
        batch("eu-1", 5, range(301, 1001)),
        batch("eu-1", 9, range(1, 4)),
    )
    log = home.open()
    try:
        assert log.checkpoint.size == 1013
        assert log.next_position("eu-1") == (9, 4)
        assert log.next_position("us-1") == (6, 11)
        assert log.next_position("ap-1") is None
        assert log.find(Position("eu-1", 5, 300)) == 299
        assert log.find(Position("us-1", 6, 1)) == 300
        assert log.find(Position("eu-1", 5, 301)) == 310
        assert log.find(Position("eu-1", 9, 3)) == 1012
        for absent in (("eu-1", 5, 1001), ("eu-1", 8, 1), ("us-1", 6, 11), ("ap-1", 1, 1)):
            assert log.find(Position(*absent)) is None
        assert log.holds(Position("eu-1", 5, 300), record("eu-1", 5, 300))
        assert not log.holds(Position("eu-1", 5, 300), record("eu-1", 5, 300, outcome="DENIED"))
    finally:
        log.close()
    verified = verify_log(home.directory, home.key)
    assert verified.shards == {"eu-1": (9, 3), "us-1": (6, 10)}


def test_each_size_has_a_checkpoint_that_opens_and_a_log_that_verifies(home: LogHome) -> None:
    """After each append of a few records the whole log verifies, and is consistent."""
    older: list[str] = []
    sequence = 1
    for count in (1, 1, 250, 3, 1, 1, 255, 256, 257, 2):
        text = home.fill(batch("eu-1", 5, range(sequence, sequence + count)))
        sequence += count
        assert open_checkpoint(text, home.key).size == sequence - 1
        verify_log(home.directory, home.key, older_checkpoints=older)
        older.append(text)


@pytest.mark.parametrize(
    "wrong",
    [
        batch("eu-1", 5, range(5, 7)),  # repeat
        batch("eu-1", 5, range(13, 15)),  # gap
        batch("eu-1", 4, range(1, 3)),  # older epoch
        batch("eu-1", 6, range(11, 13)),  # new epoch, not from 1
        batch("us-1", 5, range(2, 3)),  # new shard, not from 1
        ShardBatch(Position("eu-1", 5, 11), ()),
    ],
)
def test_a_batch_that_does_not_continue_its_shard_is_refused(
    home: LogHome, wrong: ShardBatch
) -> None:
    """Nothing of the append is taken, and the right batch is taken afterwards."""
    home.fill(batch("eu-1", 5, range(1, 11)))
    log = home.open()
    try:
        with pytest.raises(LogError):
            log.append([batch("eu-1", 5, range(11, 12)), wrong, batch("us-1", 1, range(1, 2))])
        assert log.checkpoint.size == 10
        assert log.append([batch("eu-1", 5, range(11, 13))]).size == 12
    finally:
        log.close()
    verify_log(home.directory, home.key)


def test_only_one_process_has_a_log(home: LogHome) -> None:
    """A second signer is refused, by the state's lock and by the directory's."""
    log = home.open()
    try:
        with pytest.raises(StartRefusedError, match="another audit log process"):
            home.open()
        elsewhere = home.root / "elsewhere.sqlite3"
        shutil.copy(home.state_file, elsewhere)
        with pytest.raises(StartRefusedError, match="another audit log process"):
            type(log).open(home.directory, elsewhere, home.last_checkpoint_file, home.signer)
    finally:
        log.close()
    home.open().close()


def test_a_second_signer_without_the_lock_is_refused_by_the_state(home: LogHome) -> None:
    """Should a lock fail (a network file system), the compare-and-swap still stops the fork."""
    log = home.open()
    try:
        with sqlite3.connect(home.state_file) as other:
            other.execute("UPDATE log SET size = 1, root = ?", (bytes(32),))
        other.close()
        with pytest.raises(ForkRefusedError):
            log.append([batch("eu-1", 5, range(1, 3))])
    finally:
        log.close()


def test_nothing_is_made_over_a_log_or_a_state(home: LogHome, tmp_path: Path) -> None:
    """Creating is explicit and never overwrites."""
    with pytest.raises(StartRefusedError, match="holds a log already"):
        create_log(home.directory, tmp_path / "new.sqlite3", tmp_path / "last.sqlite3", home.signer)
    with pytest.raises(StartRefusedError, match="never overwritten"):
        create_log(tmp_path / "new", home.state_file, tmp_path / "last.sqlite3", home.signer)


def test_a_log_without_state_and_a_state_without_log_do_not_start(
    home: LogHome, tmp_path: Path
) -> None:
    """Nothing is created implicitly; the messages name the cure."""
    home.fill(batch("eu-1", 5, range(1, 11)))
    moved = home.root / "moved"
    home.state_file.rename(moved)
    with pytest.raises(StartRefusedError, match="--init"):
        home.open()
    moved.rename(home.state_file)
    home.directory.rename(tmp_path / "away")
    with pytest.raises(StartRefusedError, match="--init"):
        home.open()


def test_another_key_or_origin_does_not_start(home: LogHome) -> None:
    """The key of another log cannot sign on."""
    home.fill(batch("eu-1", 5, range(1, 11)))
    for signer, message in (
        (Signer(ORIGIN, Ed25519PrivateKey.generate()), "not signed by"),
        (Signer("example.org/other", Ed25519PrivateKey.generate()), "the configuration says"),
    ):
        with pytest.raises(StartRefusedError, match=message):
            LogHome(home.root, signer).open()


def test_a_restored_older_log_does_not_start(home: LogHome, tmp_path: Path) -> None:
    """Log from a backup, newest state: refused at every distance."""
    home.fill(batch("eu-1", 5, range(1, 101)))
    backups = []
    sequence = 101
    for count in (1, 100, 300, 2000):
        backups.append(copy_of(home, tmp_path / f"backup{count}"))
        home.fill(batch("eu-1", 5, range(sequence, sequence + count)))
        sequence += count
    for backup in backups:
        shutil.rmtree(home.directory)
        shutil.copytree(backup / "log", home.directory)
        with pytest.raises(StartRefusedError, match="restore the newest log"):
            home.open()


def test_a_restored_older_state_does_not_start(home: LogHome, tmp_path: Path) -> None:
    """State from a backup, newest log: signing on would fork, so it is refused."""
    home.fill(batch("eu-1", 5, range(1, 101)))
    backup = copy_of(home, tmp_path / "backup")
    home.fill(batch("eu-1", 5, range(101, 102)))
    shutil.copy(backup / "state.sqlite3", home.state_file)
    with pytest.raises(StartRefusedError, match="would fork the log"):
        home.open()


def test_a_state_of_another_history_does_not_start(home: LogHome, tmp_path: Path) -> None:
    """Two histories of one key from one backup: state and log of different ones do not mix."""
    home.fill(batch("eu-1", 5, range(1, 101)))
    other = LogHome(copy_of(home, tmp_path / "other"), home.signer)
    home.fill(batch("eu-1", 5, range(101, 111)))
    changed = record("eu-1", 5, 101, outcome="DENIED")
    other.fill(
        ShardBatch(Position("eu-1", 5, 101), (changed,)),
        batch("eu-1", 5, range(102, 111)),
    )
    ours = home.state_file.read_bytes()
    shutil.copy(other.state_file, home.state_file)
    with pytest.raises(StartRefusedError, match="not the one that was signed"):
        home.open()
    # The entries and tiles of the other history as well, with our checkpoint of size 110.
    shutil.copytree(other.directory / "tile", home.directory / "tile", dirs_exist_ok=True)
    with pytest.raises(StartRefusedError, match="not of the past of the log"):
        home.open()
    home.state_file.write_bytes(ours)
    with pytest.raises(StartRefusedError, match="not the one that was signed"):
        home.open()


def test_a_missing_checkpoint_does_not_start(home: LogHome) -> None:
    """Without the published checkpoint an old state looks like the newest."""
    home.fill(batch("eu-1", 5, range(1, 101)))
    (home.directory / "checkpoint").unlink()
    with pytest.raises(StartRefusedError, match="put back a copy"):
        home.open()


def test_lost_right_edge_tiles_are_rebuilt_from_the_entries(home: LogHome) -> None:
    """Partial hash tiles that are missing or wrong are made again and named."""
    home.fill(batch("eu-1", 5, range(1, 701)))
    (home.directory / "tile/0/002.p/188").unlink()
    (home.directory / "tile/1/000.p/2").write_bytes(bytes(64))
    log = home.open()
    try:
        assert set(log.repaired) == {"tile/0/002.p/188", "tile/1/000.p/2"}
    finally:
        log.close()
    verify_log(home.directory, home.key)


def test_what_was_written_and_never_signed_does_not_stay(home: LogHome) -> None:
    """Partial files of an append that was killed before it signed go at the next start.

    The next appends come by other widths, and the log verifies all the same.
    """
    home.fill(batch("eu-1", 5, range(1, 5_101)))  # 19 full tiles and one of 236
    strays = [
        f"tile/{path}.p/{width}"
        for path, width in (
            ("0/019", 250),
            ("0/021", 7),
            ("0/318", 1),
            ("1/000", 22),
            ("entries/019", 240),
            ("entries/020", 3),
        )
    ]
    for stray in strays:
        target = home.directory / stray
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"not what will be there")
    home.fill(batch("eu-1", 5, range(5_101, 6_001)))
    assert [stray for stray in strays if (home.directory / stray).exists()] == []
    verify_log(home.directory, home.key)


def test_changed_entries_of_the_right_edge_do_not_start(home: LogHome) -> None:
    """What cannot be recomputed is not guessed."""
    home.fill(batch("eu-1", 5, range(1, 701)))
    path = home.directory / "tile/entries/002.p/188"
    path.write_bytes(path.read_bytes().replace(b'"outcome":"OK"', b'"outcome":"ok"', 1))
    with pytest.raises(StartRefusedError, match="not the one that was signed"):
        home.open()


def test_a_lost_index_is_rebuilt_from_the_entries(home: LogHome) -> None:
    """Positions are found again after the index was emptied."""
    home.fill(batch("eu-1", 5, range(1, 301)), batch("us-1", 5, range(1, 3)))
    with sqlite3.connect(home.state_file) as database:
        database.execute("DELETE FROM runs")
    database.close()
    log = home.open()
    try:
        assert log.find(Position("eu-1", 5, 299)) == 298
        assert log.find(Position("us-1", 5, 2)) == 301
    finally:
        log.close()


def test_a_state_whose_positions_are_not_the_entries_does_not_start(home: LogHome) -> None:
    """When the index is rebuilt, the shards' positions are compared with the entries."""
    home.fill(batch("eu-1", 5, range(1, 301)))
    with sqlite3.connect(home.state_file) as database:
        database.execute("DELETE FROM runs")
        database.execute("UPDATE shards SET next_sequence = 200")
    database.close()
    with pytest.raises(StartRefusedError, match="positions in the state"):
        home.open()


def test_a_damaged_state_does_not_start(home: LogHome) -> None:
    """A page of zeros in the database is noticed before anything is signed."""
    home.fill(batch("eu-1", 5, range(1, 301)))
    with sqlite3.connect(home.state_file) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    data = bytearray(home.state_file.read_bytes())
    for page in range(0, len(data), 4096):
        damaged = bytearray(data)
        damaged[page : page + 100] = bytes(100)
        home.state_file.write_bytes(damaged)
        with pytest.raises(StartRefusedError):
            home.open()
    home.state_file.write_bytes(data)
    home.open().close()


def test_older_partial_files_go_when_the_full_one_is_published(home: LogHome) -> None:
    """Only the right edge has partial files, one for each signed size."""
    home.fill(batch("eu-1", 5, range(1, 101)), batch("eu-1", 5, range(101, 201)))
    widths = {path.name for path in (home.directory / "tile/entries/000.p").iterdir()}
    assert widths == {"100", "200"}
    home.fill(batch("eu-1", 5, range(201, 301)))
    assert not (home.directory / "tile/entries/000.p").exists()
    assert not (home.directory / "tile/0/000.p").exists()
