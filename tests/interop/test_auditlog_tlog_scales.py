"""The log's files read by tlog-scales, an independent implementation of C2SP tlog-tiles (A7)."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from tests.support.audit_records import LogHome, batch, receipt_of, record
from tests.support.witness import TestCosigner
from tlog_scales import tiles
from tlog_scales.backend import LocalBackend
from tlog_scales.reader import TilesReader
from tlog_scales.signing import Vkey
from tlog_scales.tlog import Checkpoint

from strongroom.tlog.checkpoint import open_checkpoint
from strongroom.tlog.proof import TlogProof, verify_proof
from strongroom_auditlog.proofs import prove_consistency, prove_receipt
from strongroom_auditlog.tiles import LogFiles
from strongroom_auditlog.verify import read_checkpoint

SIZE = 66_000  # three levels of tiles
TOOL = Path(sys.executable).with_name("tlog-tiles")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[LogHome, list[str]]:
    """Give a log of 66,000 records and the checkpoints on its way."""
    home = LogHome.create(tmp_path_factory.mktemp("log"))
    checkpoints = []
    opened = home.open()
    rng = random.Random(1)  # noqa: S311 - sizes of batches
    sequence = 1
    while sequence <= SIZE:
        count = min(rng.choice((1, 5, 60, 190)), SIZE + 1 - sequence)
        checkpoints.append(
            opened.append([batch("eu-1", 5, range(sequence, sequence + count))]).text
        )
        sequence += count
    opened.close()
    return home, checkpoints


def reader_of(home: LogHome) -> tuple[TilesReader, Checkpoint]:
    reader = TilesReader(LocalBackend(home.directory))
    return reader, reader.get_checkpoint()


def test_the_checkpoint_is_signed_for_others(log: tuple[LogHome, list[str]]) -> None:
    """Their parser reads it and their verifier takes our verifier key."""
    home, _ = log
    _, checkpoint = reader_of(home)
    checkpoint.verify(Vkey.from_string(str(home.key)))
    assert (checkpoint.size, checkpoint.origin) == (SIZE, home.key.name)


def test_cosignatures_are_cosignatures_for_others(log: tuple[LogHome, list[str]]) -> None:
    """Their verifier takes our witness's key and line; another checkpoint's is refused."""
    _, checkpoints = log
    witness = TestCosigner()
    theirs = Vkey.from_string(str(witness.key))
    text = checkpoints[-1]
    Checkpoint.from_text(text + witness.line(text)).verify(theirs)
    with pytest.raises(InvalidSignature):
        Checkpoint.from_text(text + witness.line(checkpoints[0])).verify(theirs)
    with pytest.raises(RuntimeError, match="no signature matched"):
        Checkpoint.from_text(text).verify(theirs)


def test_their_root_is_ours(log: tuple[LogHome, list[str]]) -> None:
    """The root that they compute from our tiles is the signed one."""
    reader, checkpoint = reader_of(log[0])
    assert reader.calculate_root_hash() == checkpoint.root_hash


def test_a_thousand_leaves_are_included_for_them(
    log: tuple[LogHome, list[str]], figures: Callable[..., None]
) -> None:
    """1,000 leaves, read and proved by them from our files (A7)."""
    reader, checkpoint = reader_of(log[0])
    for index in random.Random(2).sample(range(SIZE), 1000):  # noqa: S311 - a sample
        entry = reader.get_entry(index)
        assert entry == record("eu-1", 5, index + 1)
        proof = reader.get_inclusion_proof(index, SIZE)
        proof.check(tiles.leaf_hash(entry), checkpoint.root_hash)
    figures(leaves_included="1000 of 1000")


def test_all_our_checkpoints_are_consistent_for_them(
    log: tuple[LogHome, list[str]], figures: Callable[..., None]
) -> None:
    """Their proofs, from our tiles, lead from each of 1,000 checkpoints to the last (A7)."""
    home, checkpoints = log
    reader, last = reader_of(home)
    files = LogFiles(home.directory)
    ours = read_checkpoint(files, home.key)
    for text in checkpoints:
        older = Checkpoint.from_text(text)
        proof = reader.get_consistency_proof(older.size, SIZE)
        proof.check(older.root_hash, last.root_hash)
        assert proof.node_hashes == prove_consistency(files, ours, older.size, SIZE)
    figures(checkpoints_consistent=f"{len(checkpoints)} of {len(checkpoints)}")
    assert len(checkpoints) >= 1000


@pytest.mark.parametrize("index", [0, 255, 256, 65_535, 65_536, SIZE - 1])
def test_their_command_line_reads_and_proves(log: tuple[LogHome, list[str]], index: int) -> None:
    """`tlog-tiles get-leaf -c` finds our records; what `gen-proof` writes verifies with us."""
    home, _ = log
    command = [str(TOOL), "get-leaf", "-c", str(home.directory), str(index)]
    leaf = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    data = record("eu-1", 5, index + 1)
    assert leaf == data
    command = [str(TOOL), "gen-proof", str(home.directory), str(index)]
    text = subprocess.run(command, capture_output=True, check=True, timeout=60, text=True).stdout
    theirs = TlogProof.parse(text)
    assert verify_proof(theirs, record=data, key=home.key).size == SIZE
    ours, _ = prove_receipt(home.directory, home.key, receipt_of(data))
    assert theirs == ours
    assert open_checkpoint(theirs.checkpoint, home.key).size == SIZE
