"""Independent verifiers on a pruned log, and on its archive: what is there still verifies."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.interop.test_auditlog_go import run, tlogcheck
from tests.support.audit_records import LogHome, batch, record
from tlog_scales import tiles
from tlog_scales.backend import LocalBackend
from tlog_scales.reader import TilesReader
from tlog_scales.signing import Vkey

from strongroom.tlog.merkle import leaf_hash
from strongroom_auditlog.retention.archiving import archive_log
from strongroom_auditlog.retention.bounds import Bound
from strongroom_auditlog.retention.directory_store import DirectoryStore
from strongroom_auditlog.retention.pruning import prune_log
from strongroom_auditlog.tiles import LogFiles

__all__ = ["tlogcheck"]  # the fixture

SIZE = 3_000
MARK = 2_048


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> LogHome:
    """Give a log of 3,000 records, 2,048 of them in the archive beside it alone."""
    home = LogHome.create(tmp_path_factory.mktemp("log"))
    home.fill(*(batch("eu-1", 5, range(n, n + 500)) for n in range(1, SIZE, 500)))
    (home.root / "log.vkey").write_text(f"{home.key}\n")
    (home.root / "archive").mkdir()
    store = DirectoryStore.open(home.root / "archive")
    files = LogFiles(home.directory)
    archive_log(files, home.key, store)
    prune_log(files, home.key, store, bound=Bound(before_leaf=MARK))
    return home


def test_go_verifies_a_pruned_log(tlogcheck: Path, pruned: LogHome, tmp_path: Path) -> None:
    """Hashes of the pruned leaves, records of the others; damage of either is refused."""
    code, said = run(tlogcheck, pruned, pruned.directory)
    assert (code, said) == (
        0,
        f"{SIZE} leaves, 0 older checkpoints\n{MARK} of the leaves without their records\n",
    )
    for name in ("tile/0/003", "tile/entries/009"):
        copy = tmp_path / name.replace("/", "-")
        shutil.copytree(pruned.directory, copy)
        data = bytearray((copy / name).read_bytes())
        data[len(data) // 2] ^= 1
        (copy / name).write_bytes(data)
        assert run(tlogcheck, pruned, copy)[0] == 1


def test_go_verifies_log_and_archive_put_together(
    tlogcheck: Path,
    pruned: LogHome,
    tmp_path: Path,
) -> None:
    """The archive's bundles copied back make the log whole again, by `cp` alone."""
    shutil.copytree(pruned.directory, tmp_path / "log")
    subprocess.run(
        ["cp", "-r", f"{pruned.root}/archive/tile", str(tmp_path / "log")], check=True, timeout=60
    )
    (tmp_path / "log" / "pruned").unlink()
    assert run(tlogcheck, pruned, tmp_path / "log") == (
        0,
        f"{SIZE} leaves, 0 older checkpoints\n",
    )


@pytest.mark.parametrize("where", ["log", "archive"])
def test_tlog_scales_reads_a_pruned_log_and_its_archive(pruned: LogHome, where: str) -> None:
    """Their root, their inclusion proofs of pruned and other leaves, from either of the two."""
    reader = TilesReader(LocalBackend(pruned.root / where))
    checkpoint = reader.get_checkpoint()
    checkpoint.verify(Vkey.from_string(str(pruned.key)))
    assert checkpoint.size == SIZE
    first, end = (MARK, SIZE) if where == "log" else (0, SIZE // 256 * 256)
    if where == "log":
        assert reader.calculate_root_hash() == checkpoint.root_hash
    for index in random.Random(5).sample(range(first, end), 100):  # noqa: S311 - a sample
        entry = reader.get_entry(index)
        assert entry == record("eu-1", 5, index + 1)
        proof = reader.get_inclusion_proof(index, SIZE)
        proof.check(tiles.leaf_hash(entry), checkpoint.root_hash)
    proof = reader.get_inclusion_proof(7, SIZE)
    proof.check(leaf_hash(record("eu-1", 5, 8)), checkpoint.root_hash)
