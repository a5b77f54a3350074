"""The record index of a pruned log: from what is there, and from the archive where there is one."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.support.audit_records import LogHome, batch

from strongroom_auditlog.errors import EntryArchivedError
from strongroom_auditlog.metrics import Metrics
from strongroom_auditlog.record_filter import RecordFilter
from strongroom_auditlog.record_index import RecordIndex
from strongroom_auditlog.record_search import RecordSearch
from strongroom_auditlog.record_segment import SEGMENT_LEAVES
from strongroom_auditlog.retention.archiving import archive_log
from strongroom_auditlog.retention.bounds import Bound
from strongroom_auditlog.retention.directory_store import DirectoryStore
from strongroom_auditlog.retention.entries import Entries
from strongroom_auditlog.retention.pruning import prune_log
from strongroom_auditlog.retention.store import ArchiveFiles
from strongroom_auditlog.tiles import LogFiles

SIZE = 3 * SEGMENT_LEAVES + 100
MARK = SEGMENT_LEAVES + 512  # in the second block


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> LogHome:
    """Give a log whose first records are in the archive beside it alone."""
    home = LogHome.create(tmp_path_factory.mktemp("log"))
    home.fill(*(batch("eu-1", 5, range(n, min(n + 4000, SIZE + 1))) for n in range(1, SIZE, 4000)))
    (home.root / "archive").mkdir()
    store = DirectoryStore.open(home.root / "archive")
    files = LogFiles(home.directory)
    archive_log(files, home.key, store)
    prune_log(files, home.key, store, bound=Bound(before_leaf=MARK))
    return home


def index_of(home: LogHome, path: Path, *, archive: bool) -> RecordIndex:
    files = LogFiles(home.directory)
    store = DirectoryStore.open(home.root / "archive")
    return RecordIndex(
        path,
        origin=home.key.name,
        files=files,
        size=lambda: SIZE,
        metrics=Metrics(regions=["eu-1"], version="test"),
        entries=Entries(files, ArchiveFiles(store) if archive else None),
    )


@pytest.mark.parametrize(("archive", "leaves"), [(True, SIZE), (False, SEGMENT_LEAVES + 100)])
def test_an_index_is_made_from_what_can_be_read(pruned, tmp_path, archive, leaves):
    """With the archive all blocks; without it those whose records are all there."""
    index = index_of(pruned, tmp_path / "index.sqlite3", archive=archive)
    index.start()
    until = time.monotonic() + 60
    while index.leaves < leaves:
        assert time.monotonic() < until, index.leaves
        time.sleep(0.05)
    time.sleep(0.5)
    assert index.leaves == leaves
    search = RecordSearch(LogFiles(pruned.directory), index)
    wanted = RecordFilter(methods=frozenset({"Decrypt"}))
    found = search.descending(wanted, size=SIZE, end=SIZE, limit=50)
    assert [leaf for leaf, _ in found.records] == list(range(SIZE - 1, SIZE - 51, -1))
    found = search.descending(wanted, size=SIZE, end=MARK + 10, limit=50)
    assert [leaf for leaf, _ in found.records] == list(range(MARK + 9, MARK - 1, -1))
    assert found.following == MARK
    with pytest.raises(EntryArchivedError):
        search.descending(wanted, size=SIZE, end=found.following, limit=50)
    with pytest.raises(EntryArchivedError):
        search.ascending(wanted, size=SIZE, start=0, limit=50)
    index.close()
    again = index_of(pruned, tmp_path / "index.sqlite3", archive=archive)
    again.start()
    while again.leaves < leaves:
        assert time.monotonic() < until, again.leaves
        time.sleep(0.05)
    again.close()
