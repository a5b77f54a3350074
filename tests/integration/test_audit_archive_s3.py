"""Archive, prune, verify and restore with an S3-compatible store, a process of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.audit_records import LogHome, batch, receipt_of, record
from tests.support.s3_server import BUCKET, S3Server, running_s3

from strongroom.tlog.proof import verify_proof
from strongroom_auditlog.errors import ArchiveError
from strongroom_auditlog.retention.archiving import archive_log
from strongroom_auditlog.retention.bounds import Bound
from strongroom_auditlog.retention.manifest import read_manifest
from strongroom_auditlog.retention.pruning import prune_log
from strongroom_auditlog.retention.restoring import restore_leaf, restore_receipt
from strongroom_auditlog.retention.s3_store import S3Store
from strongroom_auditlog.retention.store import ArchiveFiles, ArchiveStore, open_store
from strongroom_auditlog.tiles import TILE_WIDTH, LogFiles, entries_path
from strongroom_auditlog.verify import verify_log

pytestmark = pytest.mark.integration

SIZE = 2_000
FULL = SIZE // TILE_WIDTH


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    """Give a store."""
    with running_s3() as made:
        yield made


@pytest.fixture
def location(server: S3Server, request: pytest.FixtureRequest, monkeypatch) -> str:
    """Give a prefix of one's own, and boto3 the way to it."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    digest = hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    return f"s3://{BUCKET}/logs/{digest}"


@pytest.fixture
def store(location: str) -> ArchiveStore:
    """Give an archive that was not begun."""
    return open_store(location)


@pytest.fixture
def home(tmp_path: Path) -> LogHome:
    """Give a log of 2,000 records."""
    home = LogHome.create(tmp_path / "home")
    home.fill(*(batch("eu-1", 5, range(n, n + 500)) for n in range(1, SIZE, 500)))
    return home


def keys_of(server: S3Server, location: str) -> dict[str, str]:
    """Return the objects of an archive and their ETags."""
    prefix = location.removeprefix(f"s3://{BUCKET}/") + "/"
    client: Any = server.client()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    found = {
        item["Key"].removeprefix(prefix): item["LastModified"].isoformat()
        for page in pages
        for item in page.get("Contents", [])
    }
    client.close()
    return found


def test_everything_with_a_bucket(home, store, server, location):
    """Archive, prune, verify, restore, start without the position index: all from the bucket."""
    files = LogFiles(home.directory)
    done = archive_log(files, home.key, store, segment_bundles=4)
    assert done.records == FULL * TILE_WIDTH
    found = keys_of(server, location)
    assert len([key for key in found if key.startswith("tile/entries/")]) == FULL
    pruned = prune_log(files, home.key, store, bound=Bound(before_leaf=1500))
    assert pruned.minimum_index == 5 * TILE_WIDTH
    assert files.read_mark().archive == location
    receipts = [receipt_of(record("eu-1", 5, n)) for n in (1, 2000)]
    whole = verify_log(home.directory, home.key, archive=store, receipts=receipts)
    assert (whole.unread, whole.shards) == (0, {"eu-1": (5, SIZE)})
    restored = restore_receipt(store, home.key, receipts[0], log=files)
    assert (restored.leaf, restored.record) == (0, record("eu-1", 5, 1))
    own = restore_leaf(store, home.key, 1000)
    verify_proof(own.proof, record=record("eu-1", 5, 1001), key=home.key)
    home.open(archive=ArchiveFiles(store)).close()


def test_an_interrupted_upload_is_taken_up(home, store, server, location, monkeypatch):
    """What was uploaded before the break is not uploaded again."""
    original = S3Store._write_missing
    written: list[str] = []

    def write(self: S3Store, path: str, data: bytes) -> bool:
        if len(written) >= 9:
            raise ArchiveError("the network is down")
        written.append(path)
        return original(self, path, data)

    files = LogFiles(home.directory)
    monkeypatch.setattr(S3Store, "_write_missing", write)
    with pytest.raises(ArchiveError, match="network is down"):
        archive_log(files, home.key, store)
    monkeypatch.undo()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    before = keys_of(server, location)
    assert before
    assert read_manifest(store) is None
    archive_log(files, home.key, store)
    after = keys_of(server, location)
    assert {key: after[key] for key in before} == before
    assert archive_log(files, home.key, store).written_files == 0


def test_damage_in_the_bucket_stops_pruning(home, store, server, location):
    """An object that was replaced or deleted is noticed before anything is removed."""
    files = LogFiles(home.directory)
    archive_log(files, home.key, store)
    client: Any = server.client()
    key = f"{location.removeprefix(f's3://{BUCKET}/')}/{entries_path(3)}"
    for change in ("replace", "delete"):
        if change == "replace":
            client.put_object(Bucket=BUCKET, Key=key, Body=b"\x00\x02{}" * 256)
        else:
            client.delete_object(Bucket=BUCKET, Key=key)
        with pytest.raises(ArchiveError):
            prune_log(files, home.key, store, bound=Bound())
        assert (home.directory / entries_path(0)).exists()
    client.close()


def test_what_boto3_cannot_reach_is_one_error(location, monkeypatch, tmp_path):
    """No endpoint, no bucket, no credentials: an ArchiveError with where, never with a secret."""
    with pytest.raises(ArchiveError, match="no such bucket"):
        open_store("s3://other-bucket/x")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(ArchiveError, match="audit-archive"):
        open_store(location)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ArchiveError, match="credentials"):
        open_store(location)
