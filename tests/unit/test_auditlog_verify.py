"""Offline verification: what it accepts, and every way in which a log can be wrong."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import pytest
from tests.support.audit_records import LogHome, batch, receipt_of, record

from strongroom.receipts import Receipt
from strongroom.tlog import errors as tlog_errors
from strongroom.tlog.errors import VerificationError
from strongroom_auditlog import errors
from strongroom_auditlog.edge import Edge
from strongroom_auditlog.tiles import write_files
from strongroom_auditlog.verify import VerifiedLog, verify_log


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> LogHome:
    """Give a log of 1,013 records under several checkpoints."""
    home = LogHome.create(tmp_path_factory.mktemp("log"))
    home.fill(
        batch("eu-1", 5, range(1, 301)),
        batch("us-1", 6, range(1, 11)),
        batch("eu-1", 5, range(301, 901)),
        batch("eu-1", 5, range(901, 1001)),
        batch("eu-1", 9, range(1, 4)),
    )
    return home


def forged_log(home: LogHome, directory: Path, records: list[bytes]) -> None:
    """Write and sign any records, as an operator with the key could."""
    edge, files = Edge().extend(records)
    text = home.signer.sign(edge.size, edge.root()).text
    directory.mkdir()
    write_files(directory, [*files, ("checkpoint", text.encode())])


def verify(home: LogHome, directory: Path | None = None) -> VerifiedLog:
    return verify_log(directory or home.directory, home.key)


def test_a_good_log_verifies_with_receipts_and_older_checkpoints(
    home: LogHome, tmp_path: Path
) -> None:
    """Everything at once: progress, receipts of two shards, a checkpoint of before."""
    grown = LogHome.create(tmp_path / "grown")
    older = [grown.fill(batch("eu-1", 5, range(1 + 70 * i, 71 + 70 * i))) for i in range(8)]
    receipts = [receipt_of(record("eu-1", 5, n)) for n in (1, 256, 257, 560)]
    calls: list[tuple[int, int]] = []
    verified = verify_log(
        grown.directory,
        grown.key,
        receipts=receipts,
        older_checkpoints=older,
        progress=lambda done, size: calls.append((done, size)),
    )
    assert verified.receipts == dict(zip(receipts, (0, 255, 256, 559), strict=True))
    assert verified.checkpoint.size == 560
    assert calls[-1] == (560, 560)
    assert verify(home).shards == {"eu-1": (9, 3), "us-1": (6, 10)}


def test_an_empty_log_verifies(tmp_path: Path) -> None:
    """A log without records has a checkpoint of size 0."""
    home = LogHome.create(tmp_path / "empty")
    assert verify(home).checkpoint.size == 0


def test_worker_processes_find_the_same(tmp_path: Path) -> None:
    """With workers the result, and an error with its place, are the same as without."""
    home = LogHome.create(tmp_path / "large")
    log = home.open()
    for start in range(1, 40_001, 8_000):
        log.append([batch("eu-1", 5, range(start, start + 8_000))])
    log.close()
    receipts = [receipt_of(record("eu-1", 5, 39_999))]
    one = verify_log(home.directory, home.key, receipts=receipts, workers=1)
    two = verify_log(home.directory, home.key, receipts=receipts, workers=2)
    assert one == two
    path = home.directory / "tile/entries/150"
    path.write_bytes(path.read_bytes().replace(b'"outcome":"OK"', b'"outcome":"ok"', 1))
    found = []
    for workers in (1, 2):
        with pytest.raises(errors.TileInvalidError) as caught:
            verify_log(home.directory, home.key, workers=workers)
        found.append(str(caught.value))
    assert (
        found[0] == found[1] == ("tile/0/150: hash 0 is not that of the entry in tile/entries/150")
    )


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("checkpoint", tlog_errors.CheckpointInvalidError),
        ("tile/entries/000", errors.TileInvalidError),
        ("tile/entries/003.p/245", errors.TileInvalidError),
        ("tile/entries/003.p/142", errors.EntryInvalidError),
        ("tile/0/001", errors.TileInvalidError),
        ("tile/0/003.p/245", errors.TileInvalidError),
        ("tile/0/003.p/142", errors.TileInvalidError),
        ("tile/1/000.p/3", errors.TileInvalidError),
        ("tile/1/000.p/1", errors.TileInvalidError),
    ],
)
def test_one_flipped_bit_in_each_kind_of_file_is_found(
    home: LogHome, tmp_path: Path, name: str, error: type[VerificationError]
) -> None:
    """Wherever the bit is, the error is of the right kind and names the file (A8)."""
    shutil.copytree(home.directory, tmp_path / "log")
    path = tmp_path / "log" / name
    assert path.is_file()
    good = path.read_bytes()
    for at in sorted({0, 1, len(good) // 2, len(good) - 1}):
        damaged = bytearray(good)
        damaged[at] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(VerificationError) as caught:
            verify(home, tmp_path / "log")
        if at == len(good) // 2:
            assert isinstance(caught.value, error)
            assert caught.value.where.split(".p")[0].rpartition("/")[2] in name
    path.write_bytes(good)
    verify(home, tmp_path / "log")


NEEDED_FILES = [
    *(f"tile/{kind}/{n:03d}" for kind in ("0", "entries") for n in range(3)),
    "tile/0/003.p/245",
    "tile/entries/003.p/245",
    "tile/1/000.p/3",
    "checkpoint",
]


def test_every_missing_truncated_or_longer_file_is_found(home: LogHome, tmp_path: Path) -> None:
    """Each needed file is deleted, cut and lengthened in turn (A8)."""
    shutil.copytree(home.directory, tmp_path / "log")
    for name in NEEDED_FILES:
        path = tmp_path / "log" / name
        good = path.read_bytes()
        for data in (None, b"", good[:-1], good + b"\0", good[: len(good) // 2]):
            if data is None:
                path.unlink()
            else:
                path.write_bytes(data)
            with pytest.raises(VerificationError):
                verify(home, tmp_path / "log")
        path.write_bytes(good)
    verify(home, tmp_path / "log")


def test_swapped_files_are_found(home: LogHome, tmp_path: Path) -> None:
    """Two bundles exchanged together with their tiles still do not lead to the root (A8)."""
    shutil.copytree(home.directory, tmp_path / "log")
    for kind in ("0", "entries"):
        one, two = (tmp_path / "log" / f"tile/{kind}/{n:03d}" for n in (0, 2))
        first, second = one.read_bytes(), two.read_bytes()
        one.write_bytes(second)
        two.write_bytes(first)
    with pytest.raises(VerificationError):
        verify(home, tmp_path / "log")


def test_a_rewritten_log_with_consistent_tiles_misses_the_signed_root(
    home: LogHome, tmp_path: Path
) -> None:
    """Whoever rewrites entries and all tiles, but has no key, is found at the root."""
    records = [record("eu-1", 5, n) for n in range(1, 301)]
    forged_log(home, tmp_path / "log", records)
    records[7] = record("eu-1", 5, 8, outcome="DENIED")
    _, files = Edge().extend(records)
    write_files(tmp_path / "log", files)
    with pytest.raises(errors.RootMismatchError):
        verify(home, tmp_path / "log")


def test_a_log_that_was_cut_or_rewritten_with_the_key_meets_older_checkpoints(
    tmp_path: Path,
) -> None:
    """Even the holder of the key cannot hide history from who kept a checkpoint."""
    grown = LogHome.create(tmp_path / "grown")
    older = grown.fill(batch("eu-1", 5, range(1, 301)))
    records = [record("eu-1", 5, n) for n in range(1, 401)]
    forged_log(grown, tmp_path / "cut", records[:299])
    forged_log(grown, tmp_path / "same", records)
    records[0] = record("eu-1", 5, 1, outcome="DENIED")
    forged_log(grown, tmp_path / "rewritten", records)
    for name in ("cut", "rewritten"):
        verify(grown, tmp_path / name)
        with pytest.raises(tlog_errors.ConsistencyInvalidError):
            verify_log(tmp_path / name, grown.key, older_checkpoints=[older])
    verify_log(tmp_path / "same", grown.key, older_checkpoints=[older])


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([("eu-1", 5, 2)], "leaves a gap"),
        ([("eu-1", 5, 1), ("eu-1", 5, 3)], "leaves a gap"),
        ([("eu-1", 5, 1), ("eu-1", 5, 2), ("eu-1", 5, 2)], "repeats"),
        ([("eu-1", 5, 1), ("us-1", 5, 1), ("eu-1", 5, 1)], "repeats"),
        ([("eu-1", 5, 1), ("eu-1", 4, 1)], "goes back"),
        ([("eu-1", 5, 1), ("eu-1", 6, 2)], "leaves a gap"),
    ],
)
def test_gaps_and_repeats_signed_by_the_operator_are_found(
    home: LogHome, tmp_path: Path, positions: list[tuple[str, int, int]], message: str
) -> None:
    """The log may be whole and signed: each shard's sequence has to be whole as well."""
    forged_log(home, tmp_path / "log", [record(*position) for position in positions])
    with pytest.raises(errors.SequenceInvalidError, match=message):
        verify(home, tmp_path / "log")


def test_a_leaf_that_is_no_record_is_found(home: LogHome, tmp_path: Path) -> None:
    """A signed leaf that nobody can attribute to a shard is an error, with its place."""
    forged_log(home, tmp_path / "log", [record("eu-1", 5, 1), b"not a record"])
    with pytest.raises(errors.EntryInvalidError, match=r"tile/entries/000.p/2: entry 1"):
        verify(home, tmp_path / "log")


@pytest.mark.parametrize(
    ("receipt", "message"),
    [
        (receipt_of(record("eu-1", 9, 4)), "up to epoch 9, sequence 3"),
        (receipt_of(record("eu-1", 8, 1)), "not in the log"),
        (receipt_of(record("ap-1", 1, 1)), "sequence 0"),
        (receipt_of(record("eu-1", 5, 77, outcome="DENIED")), "another one"),
    ],
)
def test_receipts_of_absent_or_other_records_are_refused(
    home: LogHome, receipt: Receipt, message: str
) -> None:
    """A receipt proves nothing unless its very record is in the log."""
    with pytest.raises(tlog_errors.ReceiptInvalidError, match=message):
        verify_log(home.directory, home.key, receipts=[receipt])


def test_files_beyond_the_signed_size_are_ignored(home: LogHome, tmp_path: Path) -> None:
    """A crash may leave them; nobody was told of them."""
    shutil.copytree(home.directory, tmp_path / "log")
    for name in ("tile/0/004", "tile/entries/004", "tile/0/003.p/250", "tile/entries/003.p/250"):
        path = tmp_path / "log" / name
        path.write_bytes(b"left behind")
    verify(home, tmp_path / "log")


def test_a_checkpoint_of_another_key_is_refused(home: LogHome, tmp_path: Path) -> None:
    """Verification is against the key that was got out of band, not one in the log."""
    other = LogHome.create(tmp_path / "other")
    with pytest.raises(tlog_errors.CheckpointInvalidError):
        verify_log(home.directory, other.key)
    text = (home.directory / "checkpoint").read_text()
    root = base64.b64encode(bytes(32)).decode()
    shutil.copytree(home.directory, tmp_path / "log")
    lines = text.split("\n")
    lines[2] = root
    (tmp_path / "log/checkpoint").write_text("\n".join(lines))
    with pytest.raises(tlog_errors.CheckpointInvalidError, match="is wrong"):
        verify(home, tmp_path / "log")
