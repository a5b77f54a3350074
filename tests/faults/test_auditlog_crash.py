"""kill -9 at every step of an append: nothing lost, nothing twice, never another history."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support.audit_records import ORIGIN, LogHome, batch

from strongroom_auditlog.checkpoint import Signer
from strongroom_auditlog.errors import LogError
from strongroom_auditlog.log import create_log
from strongroom_auditlog.verify import verify_log

ROOT = Path(__file__).resolve().parents[2]


def test_killed_at_every_step_the_log_goes_on_exactly_once(tmp_path: Path) -> None:
    """After a SIGKILL before each write, fsync, rename and commit the log opens and verifies."""
    key = Ed25519PrivateKey.generate()
    home = LogHome(tmp_path / "home", Signer(ORIGIN, key))
    home.root.mkdir()
    create_log(home.directory, home.state_file, home.last_checkpoint_file, home.signer)
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "tests/faults/auditlog_crash_child.py"),
            str(home.root),
            key.private_bytes_raw().hex(),
            "1",
        ],
        capture_output=True,
        text=True,
        timeout=110,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    steps, size = map(int, done.stdout.split())
    assert steps > 40  # the three appends together; fewer means that steps were not counted
    assert size > 258  # each death lets the batches before it stand


def test_crafted_leftovers_beyond_the_signed_size_are_overwritten(tmp_path: Path) -> None:
    """Files of an append that never reached the state do not get into the next one."""
    home = LogHome.create(tmp_path / "home")
    home.fill(batch("eu-1", 5, range(1, 201)))
    for name in (
        "tile/entries/000",
        "tile/0/000",
        "tile/1/000.p/1",
        "tile/entries/001.p/9",
        "tile/0/001.p/9",
        "tile/entries/000.p/210",
        "tile/entries/000.p/.210.tmp",
        ".checkpoint.tmp",
    ):
        path = home.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"left by a crash")
    home.fill(batch("eu-1", 5, range(201, 211)), batch("eu-1", 5, range(211, 266)))
    assert verify_log(home.directory, home.key).shards == {"eu-1": (5, 265)}


def test_a_checkpoint_that_was_not_written_is_published_at_the_next_start(tmp_path: Path) -> None:
    """State moved, checkpoint not: the next start signs the very tree of the state."""
    home = LogHome.create(tmp_path / "home")
    older = home.fill(batch("eu-1", 5, range(1, 201)))
    newer = home.fill(batch("eu-1", 5, range(201, 301)))
    (home.directory / "checkpoint").write_text(older)
    log = home.open()
    assert log.checkpoint.text == newer
    log.close()
    assert (home.directory / "checkpoint").read_text() == newer


@pytest.mark.parametrize("limit_bytes", [200, 10_000, 40_000])
def test_a_full_disk_refuses_the_append_and_takes_it_later(
    tmp_path: Path, limit_bytes: int
) -> None:
    """Without room nothing changes and nothing is published; with room it goes on (A3)."""
    home = LogHome.create(tmp_path / "home")
    older = home.fill(batch("eu-1", 5, range(1, 101)))
    log = home.open()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
        with pytest.raises(LogError, match=os.strerror(errno.EFBIG)):
            log.append([batch("eu-1", 5, range(101, 601))])
        assert log.checkpoint.text == older
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        # Other records than those that failed, since the shard may send more by then.
        assert log.append([batch("eu-1", 5, range(101, 701))]).size == 700
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        log.close()
    verify_log(home.directory, home.key, older_checkpoints=[older])
