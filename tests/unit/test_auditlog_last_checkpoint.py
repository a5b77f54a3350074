"""The last checkpoint in a store of its own: what it lets through, and what it stops."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support.audit_records import ORIGIN, LogHome, batch

from strongroom.tlog.checkpoint import open_checkpoint
from strongroom_auditlog.checkpoint import Signer
from strongroom_auditlog.errors import ForkRefusedError, LogError, StartRefusedError
from strongroom_auditlog.last_checkpoint import LastCheckpoint, SqliteCheckpointStore
from strongroom_auditlog.opening import last_of
from strongroom_auditlog.verify import verify_log

SIGNER = Signer(ORIGIN, Ed25519PrivateKey.generate())


def last(size: int, fill: int = 0) -> LastCheckpoint:
    """Return a checkpoint as the store keeps it."""
    return last_of(SIGNER.sign(size, bytes([fill]) * 32))


@pytest.fixture
def store(tmp_path: Path) -> SqliteCheckpointStore:
    """Give a store with a checkpoint of 7 leaves."""
    SqliteCheckpointStore.create(tmp_path / "last.sqlite3", last(7))
    return SqliteCheckpointStore.open(tmp_path / "last.sqlite3")


@pytest.fixture
def home(tmp_path: Path) -> LogHome:
    """Give a log of 300 records."""
    home = LogHome.create(tmp_path / "home")
    home.fill(batch("eu-1", 5, range(1, 301)))
    return home


def test_it_moves_from_what_is_known_and_only_from_there(store: SqliteCheckpointStore) -> None:
    """Compare-and-swap: size and root must both be the expected ones."""
    store.replace(last(7), last(9))
    assert store.load() == last(9)
    for before in (last(7), last(9, 1), last(10)):
        with pytest.raises(ForkRefusedError, match="another signer"):
            store.replace(before, last(11))
    assert store.load() == last(9)
    store.close()


def test_what_was_stored_is_there_after_a_restart(
    store: SqliteCheckpointStore, tmp_path: Path
) -> None:
    """Closed and opened, it has the newest checkpoint, and is never made anew."""
    store.replace(last(7), last(9))
    store.close()
    with pytest.raises(StartRefusedError, match="never overwritten"):
        SqliteCheckpointStore.create(tmp_path / "last.sqlite3", last(0))
    reopened = SqliteCheckpointStore.open(tmp_path / "last.sqlite3")
    assert reopened.load() == last(9)
    reopened.close()


def test_one_process_at_a_time_has_it(store: SqliteCheckpointStore, tmp_path: Path) -> None:
    """A second process is refused, whatever its log and state are."""
    program = (
        "import sys; from pathlib import Path\n"
        "from strongroom_auditlog.last_checkpoint import SqliteCheckpointStore\n"
        "SqliteCheckpointStore.open(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "last.sqlite3")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert "in use by another audit log process" in done.stderr
    store.close()
    subprocess.run(command, timeout=30, check=True)


def test_a_store_that_is_missing_or_damaged_is_not_opened(
    store: SqliteCheckpointStore, tmp_path: Path
) -> None:
    """No file, no database, no row, another version: each is named."""
    store.close()
    path = tmp_path / "last.sqlite3"
    good = path.read_bytes()

    def refused() -> str:
        with pytest.raises(StartRefusedError) as caught:
            SqliteCheckpointStore.open(path)
        return str(caught.value)

    for statement in ("DELETE FROM last_checkpoint", "PRAGMA user_version = 2"):
        with sqlite3.connect(path) as database:
            database.execute(statement)
        database.close()
        assert "put back" in refused()
        path.write_bytes(good)
    path.write_bytes(b"no database at all, but long enough to have a header" * 10)
    assert "not a readable database" in refused()
    path.unlink()
    assert "missing" in refused()


def test_a_store_that_cannot_be_written_keeps_what_it_had(
    store: SqliteCheckpointStore,
) -> None:
    """A write that fails is told as such, and may be tried again."""
    store._connection.execute("PRAGMA query_only = ON")
    with pytest.raises(LogError):
        store.replace(last(7), last(9))
    assert store.load() == last(7)
    store._connection.execute("PRAGMA query_only = OFF")
    store.replace(last(7), last(9))
    store.close()


def test_a_backup_of_log_and_state_together_does_not_start(home: LogHome, tmp_path: Path) -> None:
    """Both come back whole and fit each other; only the last checkpoint tells (A8)."""
    shutil.copytree(home.root, tmp_path / "backup")
    newest = home.fill(batch("eu-1", 5, range(301, 400)))
    for name in ("log", "state.sqlite3"):
        path = home.root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        source = tmp_path / "backup" / name
        shutil.copytree(source, path) if source.is_dir() else shutil.copy(source, path)
    with pytest.raises(StartRefusedError, match=r"399 leaves was signed, log and state have 300.*"):
        home.open()
    verify_log(home.directory, home.key)  # nothing in the files says so
    with pytest.raises(Exception, match="the log has only 300"):
        verify_log(home.directory, home.key, older_checkpoints=[newest])


def test_another_history_behind_the_same_last_checkpoint_does_not_start(
    home: LogHome, tmp_path: Path
) -> None:
    """Another log of the same key, longer than what was signed here, is no continuation."""
    other = LogHome(tmp_path / "other", home.signer)
    shutil.copytree(home.root, other.root)
    home.fill(batch("eu-1", 5, range(301, 303)))
    other.fill(batch("us-1", 5, range(1, 30)))
    shutil.copy(home.last_checkpoint_file, other.last_checkpoint_file)
    with pytest.raises(StartRefusedError, match="not of the past of this log"):
        other.open()


def test_a_second_signer_is_stopped_at_its_next_checkpoint(home: LogHome, tmp_path: Path) -> None:
    """With log and state of its own and the same store, it cannot sign a second history (A8)."""
    second = LogHome(tmp_path / "second", home.signer)
    shutil.copytree(home.root, second.root)
    first_log = home.open()
    second_log = second.open()
    # The same store for both, as on a volume whose locks do not work.
    first_log._store = second_log._store
    second_log.append([batch("eu-1", 5, range(301, 305))])
    first_log.extend([batch("eu-1", 5, range(301, 310))])
    with pytest.raises(ForkRefusedError, match="another signer"):
        first_log.sign()
    assert first_log.checkpoint.size == 300
    second_log.close()


def test_a_store_from_a_backup_does_not_start(home: LogHome, tmp_path: Path) -> None:
    """What was published is beyond it."""
    shutil.copy(home.last_checkpoint_file, tmp_path / "older")
    home.fill(batch("eu-1", 5, range(301, 303)))
    shutil.copy(tmp_path / "older", home.last_checkpoint_file)
    with pytest.raises(StartRefusedError, match="its store was restored from a backup"):
        home.open()


def test_a_store_of_another_log_or_with_a_forged_row_does_not_start(
    home: LogHome, tmp_path: Path
) -> None:
    """Origin, signature and row must fit."""
    good = home.last_checkpoint_file.read_bytes()
    other = LogHome(tmp_path / "other", Signer("example.org/other", Ed25519PrivateKey.generate()))
    SqliteCheckpointStore.create(
        tmp_path / "other.sqlite3", last_of(other.signer.sign(0, bytes(32)))
    )
    foreign = (tmp_path / "other.sqlite3").read_bytes()
    home.last_checkpoint_file.write_bytes(foreign)
    with pytest.raises(StartRefusedError, match="the last checkpoint is of example"):
        home.open()
    for statement, message in (
        ("UPDATE last_checkpoint SET size = 200", "not the one that its note says"),
        ("UPDATE last_checkpoint SET note = replace(note, '300', '301')", "does not verify"),
    ):
        home.last_checkpoint_file.write_bytes(good)
        with sqlite3.connect(home.last_checkpoint_file) as database:
            database.execute(statement)
        database.close()
        with pytest.raises(StartRefusedError, match=message):
            home.open()


def test_a_log_from_before_gets_its_store_once(home: LogHome) -> None:
    """The first start makes it from the state; afterwards it must not be missing."""
    home.last_checkpoint_file.unlink()
    with pytest.raises(StartRefusedError, match="--rebuild-last-checkpoint"):
        home.open()
    with sqlite3.connect(home.state_file) as database:
        database.execute("PRAGMA user_version = 1")
    database.close()
    home.fill(batch("eu-1", 5, range(301, 303)))
    store = SqliteCheckpointStore.open(home.last_checkpoint_file)
    assert store.load().size == 302
    assert open_checkpoint(store.load().note, home.key).size == 302
    store.close()
    home.last_checkpoint_file.unlink()
    with pytest.raises(StartRefusedError, match="the last checkpoint is missing"):
        home.open()


def test_signed_and_not_published_is_published_as_it_was_signed(home: LogHome) -> None:
    """A crash between the last checkpoint and the published one signs nothing anew."""
    log = home.open()
    log.extend([batch("eu-1", 5, range(301, 303))])
    signed = log.sign()
    assert log.checkpoint.size == 300
    log.close()
    log = home.open()
    assert log.checkpoint.text == signed.text
    log.close()
    verify_log(home.directory, home.key)


def test_several_appends_share_a_checkpoint(home: LogHome) -> None:
    """What is taken is there for repeats at once, and covered by the next checkpoint."""
    log = home.open()
    sizes = [log.extend([batch("eu-1", 5, range(n, n + 200))]) for n in range(301, 1301, 200)]
    assert sizes == [500, 700, 900, 1100, 1300]
    first = batch("eu-1", 5, [1299])
    assert log.holds(first.first, first.records[0])
    assert log.checkpoint.size == 300
    assert log.publish(log.sign()).size == 1300
    log.close()
    verify_log(home.directory, home.key)
    # No partial file of an append in between is left beside a full one.
    for path in home.directory.rglob("*.p"):
        assert not path.with_suffix("").exists(), path


def test_only_what_was_signed_last_is_published(home: LogHome) -> None:
    """An older checkpoint, or one of another tree, is refused."""
    log = home.open()
    older = log.checkpoint
    log.append([batch("eu-1", 5, range(301, 303))])
    with pytest.raises(LogError, match="was not signed last"):
        log.publish(older)
    with pytest.raises(LogError, match="was not signed last"):
        log.publish(home.signer.sign(302, bytes(32)))
    log.close()
