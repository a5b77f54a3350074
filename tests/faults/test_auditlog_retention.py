"""Archive and prune beside a running audit log, both killed at any moment: nothing is lost."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tests.support.audit_certificates import CertificateAuthority
from tests.support.audit_process import AuditLogProcess
from tests.support.audit_records import receipt_of
from tests.support.audit_shard import Shard, message
from tests.support.soak import rounds

from strongroom.audit.v1 import audit_log_service_pb2 as messages
from strongroom.audit.v1 import audit_log_service_pb2_grpc
from strongroom.audit.v1.audit_record_pb2 import RecordPosition
from strongroom.receipts import Receipt
from strongroom.tlog.merkle import leaf_hash
from strongroom_auditlog.retention.directory_store import DirectoryStore
from strongroom_auditlog.tiles import TILE_WIDTH, LogFiles
from strongroom_auditlog.tls import channel_credentials
from strongroom_auditlog.verify import verify_log

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

READER = "spiffe://example.org/auditor"
PROGRAM = [sys.executable, "-m", "strongroom_server.cli", "audit"]


class Deployment:
    """Two shards in the test's process, the audit log in one of its own, and an archive."""

    def __init__(self, root: Path, authority: CertificateAuthority, *shards: Shard):
        self.root = root
        self.authority = authority
        self.shards = shards
        self.archive = root / "archive"
        self.archive.mkdir()
        self.log: AuditLogProcess

    async def start(self) -> None:
        server = self.authority.issue("server")
        ports = {shard.region: await shard.start(self.authority, server) for shard in self.shards}
        tls = self.authority.issue("audit-log")
        self.log = AuditLogProcess.create(self.root / "home", tls, ports, (READER,))
        text = self.log.config_file.read_text()
        self.log.config_file.write_text(f'{text}\n[archive]\nlocation = "{self.archive}"\n')
        await self.log.start()

    async def covered(self) -> None:
        async with asyncio.timeout(60):
            while any(shard.acknowledged < len(shard.records) for shard in self.shards):  # noqa: ASYNC110 - it happens in another process
                await asyncio.sleep(0.01)

    async def shows(self, metric: str) -> None:
        """Wait until the audit log's metrics say so."""
        async with asyncio.timeout(20):
            while metric not in (await self.log.ops("/metrics"))[1]:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)

    async def command(self, name: str, *options: str, kill_after: float | None = None) -> str:
        """Run a command on the log; kill it after a while, when that is given."""
        process = await asyncio.create_subprocess_exec(
            *PROGRAM,
            name,
            *("--config", str(self.log.config_file), "-o", "json", *options),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        if kill_after is not None:
            await asyncio.sleep(kill_after)
            if process.returncode is None:
                process.kill()
        out, err = await process.communicate()
        if kill_after is None:
            assert process.returncode == 0, err.decode()
        return out.decode()

    def receipts(self) -> list[Receipt]:
        return [receipt_of(item) for shard in self.shards for item in shard.records]

    def verify(self) -> int:
        """Verify log and archive with a receipt of every record; return the size."""
        receipts = self.receipts()
        verified = verify_log(
            self.log.config.log.directory,
            self.log.key,
            archive=DirectoryStore.open(self.archive),
            receipts=receipts,
        )
        assert verified.unread == 0
        assert verified.checkpoint.size == len(receipts) == len(set(verified.receipts.values()))
        return verified.checkpoint.size


@pytest_asyncio.fixture
async def deployment(tmp_path: Path) -> AsyncIterator[Deployment]:
    """Give a deployment with 1,500 records in each of two shards."""
    authority = CertificateAuthority.create(tmp_path / "tls")
    made = Deployment(tmp_path, authority, Shard("eu-1"), Shard("us-1", 6))
    for shard in made.shards:
        shard.add(1500)
    await made.start()
    try:
        yield made
    finally:
        await made.log.kill()
        for shard in made.shards:
            await shard.stop()


async def refused(call: Awaitable[object]) -> dict[str, str]:
    """Return reason and metadata of a call that is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    status = rpc_status.from_call(caught.value)
    info = error_details_pb2.ErrorInfo()
    assert status is not None
    assert status.details[0].Unpack(info)
    return {"reason": info.reason, **info.metadata}


async def test_what_a_pruned_log_answers(deployment: Deployment) -> None:
    """Proofs of pruned records go on, records are RECORD_ARCHIVED, replays are told apart."""
    await deployment.covered()
    await deployment.command("archive")
    answer = json.loads(await deployment.command("prune", "--before-leaf", "2600"))
    mark = 10 * TILE_WIDTH
    assert (answer["minimum_index"], answer["removed_records"]) == (mark, mark)
    archived = {
        "reason": "RECORD_ARCHIVED",
        "minimum_index": str(mark),
        "archive": str(deployment.archive),
    }
    old = deployment.shards[0].records[0]
    files = channel_credentials(deployment.authority.issue("auditor"))
    for _ in range(2):  # before and after a restart
        async with grpc.aio.secure_channel(deployment.log.config.server.listen, files) as channel:
            stub = audit_log_service_pb2_grpc.AuditLogServiceStub(channel)
            request = messages.ListRecordsRequest
            assert await refused(stub.ListRecords(request())) == archived
            assert await refused(stub.ListRecords(request(start_index=mark - 1))) == archived
            page = await stub.ListRecords(request(start_index=mark, page_size=1000))
            assert [item.index for item in page.records] == list(range(mark, 3000))
            position = RecordPosition(region="eu-1", epoch=5, sequence=1)
            proof = await stub.GetInclusionProof(
                messages.GetInclusionProofRequest(position=position)
            )
            assert proof.leaf_hash == leaf_hash(old)
            await stub.GetConsistencyProof(messages.GetConsistencyProofRequest(first_size=1))
        assert await deployment.log.stop() == 0
        await deployment.log.start()
    # The shard replays its first records, and then one that it altered.
    shard = deployment.shards[0]
    replay = message("eu-1", 5, 1, shard.records[:300])
    shard.add(10)
    fresh = message("eu-1", 5, 1501, shard.records[1500:])
    await deployment.log.stop()
    shard.script = lambda _request: [replay, fresh, replay]
    await deployment.log.start()
    await deployment.covered()
    altered = shard.records[0].replace(b'"OK"', b'"NO"')
    await deployment.log.stop()
    shard.script = lambda _request: [message("eu-1", 5, 1, [altered])]
    await deployment.log.start()
    await deployment.shows('stopped{region="eu-1"} 1.0')
    await deployment.shows('kind="conflict",region="eu-1"} 1.0')
    assert deployment.verify() == 3010


async def test_archive_and_prune_beside_a_log_under_load(
    deployment: Deployment, figures: Callable[..., None]
) -> None:
    """Archiving, pruning and kill -9 of each of the three processes, in turns, under load."""
    rng = random.Random(11)  # noqa: S311 - moments to kill at
    writing = True

    async def write() -> None:
        while writing:
            for shard in deployment.shards:
                shard.add(rng.randrange(1, 25))
            await asyncio.sleep(0.02)

    await deployment.covered()
    writer = asyncio.create_task(write())
    older: list[str] = []
    directory = deployment.log.config.log.directory
    for _ in range(rounds(4)):
        older.append((directory / "checkpoint").read_text())
        await deployment.command("archive", kill_after=0.6 + rng.random())
        await deployment.command("archive")
        limit = str(rng.randrange(1, 200) * TILE_WIDTH)
        await deployment.command("prune", "--before-leaf", limit, kill_after=0.6 + rng.random())
        await deployment.log.kill()
        await deployment.log.start()
        await deployment.command("prune", "--before-leaf", limit)
    writing = False
    await writer
    await deployment.covered()
    await deployment.command("archive")
    await deployment.command("prune", "--before-leaf", "1000000")
    assert await deployment.log.stop() == 0
    size = deployment.verify()
    mark = LogFiles(directory).read_mark().minimum_index
    assert mark == size // TILE_WIDTH * TILE_WIDTH
    verify_log(directory, deployment.log.key, older_checkpoints=older)
    # The state's index of positions, and that of records, come back from the archive.
    for name in ("index.sqlite3", "index.sqlite3-wal", "index.sqlite3-shm"):
        deployment.log.config.log.state.with_name(name).unlink(missing_ok=True)
    await deployment.log.start()
    assert f"strongroom_audit_tree_size {size}.0" in (await deployment.log.ops("/metrics"))[1]
    figures(records=size, rounds=rounds(4), lost=0, twice=0, pruned=mark)
