"""A8: whatever is changed in a log's files, or brought back from a backup, is noticed."""

from __future__ import annotations

import itertools
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.interop.test_auditlog_go import run, tlogcheck
from tests.support.audit_records import LogHome, batch
from tests.support.soak import rounds
from tests.support.witness import TestCosigner

from strongroom.tlog.cosignature import WitnessPolicy
from strongroom.tlog.errors import VerificationError
from strongroom_auditlog.errors import ForkRefusedError, StartRefusedError
from strongroom_auditlog.tiles import decode_bundle, encode_entry
from strongroom_auditlog.verify import verify_log

__all__ = ["tlogcheck"]  # a fixture, which pytest finds by its name

SIZES = (3, 200, 255, 256, 300, 700, 710)  # of the checkpoints; the right edge keeps older files


@dataclass(frozen=True)
class CosignedLog:
    """A log whose last checkpoint has two cosignatures."""

    home: LogHome
    older: list[str]
    policy: WitnessPolicy

    def files(self) -> list[str]:
        """Return the paths of all files, relative to the log."""
        directory = self.home.directory
        return sorted(
            str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()
        )

    def is_seen(self) -> bool:
        """Whether the verifier notices."""
        try:
            verify_log(
                self.home.directory,
                self.home.key,
                witnesses=self.policy,
                older_checkpoints=self.older,
            )
        except VerificationError:
            return True
        return False


@pytest.fixture
def log(tmp_path: Path) -> CosignedLog:
    """Give a log of 710 records."""
    home = LogHome.create(tmp_path / "home")
    older, before = [], 0
    for size in SIZES:
        older.append(home.fill(batch("eu-1", 5, range(before + 1, size + 1))))
        before = size
    text = older.pop()
    witnesses = TestCosigner("witness.example.org/w1"), TestCosigner("witness.example.org/w2")
    cosigned = text + "".join(witness.line(text) for witness in witnesses)
    (home.directory / "checkpoint").write_text(cosigned)
    (home.root / "log.vkey").write_text(f"{home.key}\n")
    found = CosignedLog(home, older, WitnessPolicy(tuple(w.key for w in witnesses), 2))
    assert not found.is_seen()
    return found


@dataclass
class Score:
    """How many alterations were made, and how many were seen by whom."""

    made: int = 0
    seen: int = 0
    seen_by_go: int = 0
    asked_go: int = 0


def alterations(data: bytes, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Give altered contents of a file: one bit in many places, and cut in many."""
    places = rng.sample(range(len(data) * 8), min(rounds(150), len(data) * 8))
    for bit in {0, len(data) * 8 - 1, *places}:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield "flip", bytes(changed)
    for length in {0, 1, len(data) - 1, *(rng.randrange(len(data)) for _ in range(rounds(3)))}:
        yield "cut", data[:length]
    yield "longer", data + b"\0"


def test_every_altered_file_is_noticed(
    log: CosignedLog, tlogcheck: Path, figures: Callable[..., None]
) -> None:
    """One bit, a cut, a byte more, in each tile, bundle and the checkpoint: 100 %.

    Go is asked once a file and kind, where the file belongs to the newest checkpoint: of
    the older partial files, of sequences and of witnesses it knows nothing by itself.
    """
    rng = random.Random(8)  # noqa: S311 - places to alter
    scores: dict[str, Score] = {}
    witnesses = [part for key in log.policy.keys for part in ("-witness", str(key))]
    newest = {"checkpoint", "tile/1/000.p/2"}
    newest |= {f"tile/{kind}/{name}" for kind in ("0", "entries") for name in ("000", "001")}
    newest |= {f"tile/{kind}/002.p/198" for kind in ("0", "entries")}
    assert newest <= set(log.files())
    for name in log.files():
        path = log.home.directory / name
        good = path.read_bytes()
        asked: set[str] = set()
        for kind, data in alterations(good, rng):
            score = scores.setdefault(kind, Score())
            path.write_bytes(data)
            score.made += 1
            seen = log.is_seen()
            score.seen += seen
            assert seen, (name, kind)
            if name in newest and kind not in asked:
                asked.add(kind)
                score.asked_go += 1
                score.seen_by_go += run(tlogcheck, log.home, log.home.directory, *witnesses)[0] == 1
        path.write_bytes(good)
    assert not log.is_seen()
    for kind, score in scores.items():
        figures(**{f"{kind}_seen": f"{score.seen} of {score.made}"})
        figures(**{f"{kind}_seen_by_go": f"{score.seen_by_go} of {score.asked_go}"})
        assert score.seen == score.made
    # A tile that is too long is only refused by who compares lengths.
    assert scores["flip"].seen_by_go == scores["flip"].asked_go == len(newest)
    assert scores["cut"].seen_by_go == scores["cut"].asked_go == len(newest)


def test_every_lost_or_exchanged_file_is_noticed(
    log: CosignedLog, figures: Callable[..., None]
) -> None:
    """Each file deleted, and each pair of files of a kind swapped: 100 %, but for clutter.

    Partial files of older checkpoints may be removed when a newer one covers them (C2SP
    tlog-tiles, "Partial Tiles"): a log without them is whole.
    """
    deleted = swapped = 0
    files = log.files()
    widest = {
        name
        for name in files
        if ".p/" not in name or name.endswith(("entries/002.p/198", "0/002.p/198", "1/000.p/2"))
    }
    for name in files:
        path = log.home.directory / name
        data = path.read_bytes()
        path.unlink()
        assert log.is_seen() == (name in widest), name
        deleted += name in widest
        path.write_bytes(data)
    tiles = [name for name in files if name != "checkpoint"]
    for one, other in itertools.combinations(tiles, 2):
        if one.split("/")[1] != other.split("/")[1]:
            continue
        first, second = log.home.directory / one, log.home.directory / other
        contents = first.read_bytes(), second.read_bytes()
        first.write_bytes(contents[1])
        second.write_bytes(contents[0])
        assert log.is_seen(), (one, other)
        swapped += 1
        first.write_bytes(contents[0])
        second.write_bytes(contents[1])
    assert not log.is_seen()
    figures(deleted_files_seen=f"{deleted} of {deleted}", swaps_seen=f"{swapped} of {swapped}")


def test_every_altered_record_is_noticed(
    log: CosignedLog, tlogcheck: Path, figures: Callable[..., None]
) -> None:
    """Records removed, swapped, repeated, replaced and made up inside a bundle: 100 %, Go too."""
    path = log.home.directory / "tile/entries/001"
    good = path.read_bytes()
    entries = decode_bundle(good, 256, where="here")
    rng = random.Random(9)  # noqa: S311 - places to alter
    made = 0
    for _ in range(rounds(10)):
        one, other = rng.sample(range(256), 2)
        swapped = list(entries)
        swapped[one], swapped[other] = swapped[other], swapped[one]
        replaced = list(entries)
        replaced[one] = entries[one].replace(b"orders", b"nobody")
        repeated = list(entries)
        repeated[one] = entries[other]
        removed = [*entries[:one], *entries[one + 1 :]]
        moved = [*removed[:other], entries[one], *removed[other:]]
        for changed in (swapped, replaced, repeated, removed, moved, [*entries, entries[one]]):
            if changed == entries:
                continue
            path.write_bytes(b"".join(map(encode_entry, changed)))
            assert log.is_seen()
            assert run(tlogcheck, log.home, log.home.directory)[0] == 1
            made += 1
    path.write_bytes(good)
    assert not log.is_seen()
    figures(altered_bundles_seen=f"{made} of {made}", by_go=f"{made} of {made}")


def test_every_backup_is_noticed(tmp_path: Path, figures: Callable[..., None]) -> None:
    """Every choice of parts brought back from every earlier moment stops the signer.

    Only all three together start: then it is the witnesses that refuse
    (tests/faults/test_auditlog_witness.py), and everyone who kept a later checkpoint.
    """
    parts = ("log", "state.sqlite3", "last-checkpoint.sqlite3")
    home = LogHome.create(tmp_path / "grown")
    backups: list[Path] = []
    following = 1
    for count in (1, 10, 245, 300, 3):
        home.fill(batch("eu-1", 5, range(following, following + count)))
        following += count
        backups.append(shutil.copytree(home.root, tmp_path / f"backup-{following}"))
    newest = backups.pop()
    refused = 0
    for backup in backups:
        for number in range(1, len(parts)):
            for chosen in itertools.combinations(parts, number):
                for part in parts:
                    source = (backup if part in chosen else newest) / part
                    target = home.root / part
                    if source.is_dir():
                        shutil.rmtree(target)
                        shutil.copytree(source, target)
                    else:
                        shutil.copy(source, target)
                with pytest.raises(StartRefusedError):
                    home.open()
                refused += 1
    figures(restored_combinations_refused=f"{refused} of {refused}")


def test_every_second_signer_is_stopped(tmp_path: Path, figures: Callable[..., None]) -> None:
    """Two at once on the same log, on the same state, on the same last checkpoint."""
    home = LogHome.create(tmp_path / "home")
    home.fill(batch("eu-1", 5, range(1, 301)))
    log = home.open()
    stopped = 0
    for shared in ("log", "state.sqlite3", "last-checkpoint.sqlite3"):
        other = LogHome(tmp_path / f"other-{shared}", home.signer)
        other.root.mkdir()
        for part in ("log", "state.sqlite3", "last-checkpoint.sqlite3"):
            source, target = home.root / part, other.root / part
            if part == shared:
                target.symlink_to(source)
            elif source.is_dir():
                shutil.copytree(source, target)
            else:
                shutil.copy(source, target)
        with pytest.raises(StartRefusedError, match="another audit log process"):
            other.open()
        stopped += 1
    # Should every lock fail, the first step of each is a compare-and-swap.
    for database, table in ((home.state_file, "log"), (home.last_checkpoint_file, None)):
        if table is None:
            log._store.replace(log._last, log._last.__class__(home.key.name, 301, bytes(32), ""))
            log.extend([batch("eu-1", 5, range(301, 303))])
            with pytest.raises(ForkRefusedError):
                log.sign()
        else:
            with sqlite3.connect(database) as connection:
                tree = connection.execute("SELECT size, root FROM log").fetchone()
                connection.execute("UPDATE log SET size = 1")
            with pytest.raises(ForkRefusedError):
                log.extend([batch("eu-1", 5, range(301, 303))])
            with connection:
                connection.execute("UPDATE log SET size = ?, root = ?", tree)
            connection.close()
        stopped += 1
    log.close()
    figures(second_signers_stopped=stopped)
