"""Whatever happens to the index's file, answers are those of the log."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from tests.support.audit_records import record
from tests.support.audit_tree import Tree
from tests.support.waiting import wait_until

from strongroom_auditlog.index_store import IndexStore
from strongroom_auditlog.metrics import Metrics
from strongroom_auditlog.record_filter import RecordFilter
from strongroom_auditlog.record_index import RecordIndex
from strongroom_auditlog.record_search import RecordSearch

SIZE = 8_500
ROOT = Path(__file__).resolve().parents[2]
RARE = "regions/eu-1/keys/ffffffff-5d0d-4f5e-9a75-1a2b3c4d5e6f"
RARE_LEAVES = [3, 4095, 4096, 8400]
WANTED = RecordFilter(keys=frozenset([RARE]))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A log of two whole blocks and a little more."""
    tree = Tree(tmp_path_factory.mktemp("log"))
    records = [
        record("eu-1", 1, n + 1, **({"key": RARE} if n in RARE_LEAVES else {})) for n in range(SIZE)
    ]
    tree.append(records[:6_000])
    tree.append(records[6_000:])
    return tree


@contextmanager
def following(
    tree: Tree, path: Path, *, size: Callable[[], int] | None = None, origin: str = "test"
) -> Iterator[tuple[RecordIndex, Metrics]]:
    """Run an index until it has caught up, and close it at the end."""
    metrics = Metrics(regions=("eu-1",), version="0")
    current = size or (lambda: tree.size)
    index = RecordIndex(path, origin=origin, files=tree.files, size=current, metrics=metrics)
    index.start()
    try:
        wait_until(lambda: index.leaves == current())
        yield index, metrics
    finally:
        index.close()


def found(tree: Tree, index: RecordIndex) -> list[int]:
    """Return where the rare key is found; every record is read only if the index is no help."""
    page = RecordSearch(tree.files, index).ascending(WANTED, size=tree.size, start=0, limit=None)
    return [leaf for leaf, _ in page.records]


@pytest.fixture
def built(tree: Tree, tmp_path: Path) -> Path:
    """A whole index."""
    path = tmp_path / "index.sqlite3"
    with following(tree, path) as (index, _):
        assert found(tree, index) == RARE_LEAVES
    assert path.stat().st_mode & 0o777 == 0o600
    return path


def rebuilds(metrics: Metrics) -> bool:
    """Whether the index was made anew."""
    return b"strongroom_audit_index_rebuilds_total 1.0" in metrics.exposition()


def test_an_index_is_taken_up_where_it_was(tree: Tree, built: Path) -> None:
    """The next start reads no entries but those of the block that is not full."""
    with following(tree, built) as (index, metrics):
        assert not rebuilds(metrics)
        assert found(tree, index) == RARE_LEAVES


def zero_a_page(path: Path) -> None:
    """Damage the database itself."""
    data = bytearray(path.read_bytes())
    data[4096:8192] = bytes(4096)
    path.write_bytes(data)


def execute(statement: str) -> Callable[[Path], None]:
    """Return what changes an index by SQL."""

    def change(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(statement)

    return change


@pytest.mark.parametrize(
    "change",
    [
        Path.unlink,
        zero_a_page,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"nonsense" * 1000),
        execute("PRAGMA user_version = 99"),
        execute("UPDATE index_of SET origin = 'another'"),
        execute("DROP TABLE index_of"),
    ],
)
def test_an_index_that_is_no_good_is_made_anew(
    tree: Tree, built: Path, change: Callable[[Path], object]
) -> None:
    """Missing, damaged, of another version or of another log: it is built from the entries."""
    change(built)
    with following(tree, built) as (index, metrics):
        assert rebuilds(metrics)
        assert found(tree, index) == RARE_LEAVES


def test_an_index_that_is_ahead_of_the_log_is_made_anew(tree: Tree, built: Path) -> None:
    """When the log was restored from a copy, what the index knows beyond it is forgotten."""
    with following(tree, built, size=lambda: 6_000) as (index, metrics):
        assert rebuilds(metrics)
        assert index.leaves == 6_000


def test_a_file_that_is_no_index_is_not_deleted(tree: Tree, built: Path) -> None:
    """A mistake in the configuration costs nobody's file."""
    built.write_bytes(b"somebody's accounts")
    with following(tree, built):
        pass
    aside = built.with_name("index.sqlite3.set-aside")
    assert aside.read_bytes() == b"somebody's accounts"


def flip(column: str, at: int) -> str:
    """Return SQL that changes one byte of a column of block 0."""
    changed = f"CAST(substr({column}, 1, {at}) || x'5a' || substr({column}, {at + 2}) AS BLOB)"
    return f"UPDATE segments SET {column} = {changed} WHERE n = 0"  # noqa: S608 - our own words


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM segments WHERE n = 0",
        "DELETE FROM segments",
        "UPDATE segments SET n = n + 10",
        "UPDATE segments SET header = x'', postings = x''",
        "UPDATE segments SET header = 'a text', postings = 7 WHERE n = 1",
        "UPDATE segments SET postings = zeroblob(length(postings))",
        "UPDATE segments SET postings = x''",
        "UPDATE segments SET header = (SELECT header FROM segments WHERE n = 1)",
        "UPDATE segments SET (header, postings) = (SELECT header, postings FROM segments LIMIT 1)",
        *(flip("header", at) for at in (0, 40, 500, 900, 910, 950)),
        *(flip("postings", at) for at in (0, 2, 513)),
    ],
)
@pytest.mark.parametrize("running", [False, True])
def test_rows_that_were_tampered_with_hide_nothing(
    tree: Tree, built: Path, statement: str, *, running: bool
) -> None:
    """Changed, exchanged or missing rows never change an answer, and are made again."""
    with closing(sqlite3.connect(built)) as connection, connection:
        # STRICT refuses other types in a column; a file that was edited does not.
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_schema SET sql = replace(sql, ') STRICT', ')')")
    if not running:
        execute(statement)(built)
    with following(tree, built) as (index, _):
        if running:
            execute(statement)(built)
        assert found(tree, index) == RARE_LEAVES
        wait_until(lambda: index.leaves == SIZE)
        assert found(tree, index) == RARE_LEAVES


def test_an_index_of_another_log_hides_nothing(tree: Tree, tmp_path: Path) -> None:
    """Blocks are bound to the hashes of their leaves, not only to the name of the log."""
    other = Tree(tmp_path / "other")
    other.append([record("us-1", 1, n + 1) for n in range(SIZE)])
    path = tmp_path / "index.sqlite3"
    with following(other, path):
        pass
    with following(tree, path) as (index, _):
        assert found(tree, index) == RARE_LEAVES


def test_a_full_disk_only_makes_answers_slow(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While blocks cannot be written the records are found all the same."""
    path = tmp_path / "index.sqlite3"

    def refuse(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA max_page_count = 8")

    monkeypatch.setattr("strongroom_auditlog.index_store._configure", refuse)
    metrics = Metrics(regions=("eu-1",), version="0")
    index = RecordIndex(
        path, origin="test", files=tree.files, size=lambda: tree.size, metrics=metrics
    )
    index.start()
    try:
        wait_until(lambda: index.leaves == 4_096)
        assert found(tree, index) == RARE_LEAVES
    finally:
        index.close()


def test_kill_at_any_time_leaves_an_index_that_is_taken_up(tree: Tree, tmp_path: Path) -> None:
    """After kill -9 while it is built, the next start goes on and answers are right."""
    path = tmp_path / "index.sqlite3"
    program = [
        sys.executable,
        "-c",
        "import sys; from tests.support.index_child import follow; follow(*sys.argv[1:])",
        str(tree.files.directory),
        str(path),
        str(SIZE),
    ]
    for milliseconds in (0, 5, 20, 50, 100, 150):
        with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"following\n"
            time.sleep(milliseconds / 1000)
            child.send_signal(signal.SIGKILL)
        copy = tmp_path / f"{milliseconds}" / "index.sqlite3"
        copy.parent.mkdir()
        for suffix in ("", "-wal"):
            if Path(f"{path}{suffix}").exists():
                shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
        with following(tree, copy) as (index, _):
            assert found(tree, index) == RARE_LEAVES


def test_a_store_that_was_made_holds_what_was_put(tmp_path: Path) -> None:
    """What is put is there after the next opening, parts of it too."""
    path = tmp_path / "index.sqlite3"
    store = IndexStore.create(path, origin="test")
    store.put(3, b"head", b"postings")
    store.put(3, b"header", b"0123456789")
    store.close()
    store = IndexStore.open(path, origin="test")
    assert store.numbers() == [3]
    assert store.header(3) == b"header"
    assert store.header(4) == b""
    assert store.posting(3, 2, 5) == b"234"
    assert store.posting(3, 8, 50) == b"89"
    assert store.posting(3, 80, 90) == b""
    store.close()
