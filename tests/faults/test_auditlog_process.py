"""The process under load: killed, stopped, restarted; and what it answers over mTLS."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tests.support.audit_certificates import CertificateAuthority
from tests.support.audit_process import AuditLogProcess
from tests.support.audit_records import receipt_of, record
from tests.support.audit_shard import Shard
from tests.support.ports import free_port

from strongroom.audit.v1 import audit_log_service_pb2 as messages
from strongroom.audit.v1 import audit_log_service_pb2_grpc
from strongroom.audit.v1.audit_record_pb2 import RecordPosition
from strongroom.tlog.checkpoint import open_checkpoint
from strongroom.tlog.merkle import leaf_hash, verify_consistency, verify_inclusion
from strongroom.tlog.proof import TlogProof
from strongroom_auditlog.proofs import verify_receipt_proof
from strongroom_auditlog.tls import CredentialFiles, channel_credentials
from strongroom_auditlog.verify import verify_log

pytestmark = pytest.mark.integration

READER = "spiffe://example.org/auditor"


class Deployment:
    """Two shards in the test's process, the audit log in one of its own."""

    def __init__(self, authority: CertificateAuthority, process: AuditLogProcess, *shards: Shard):
        self.authority = authority
        self.process = process
        self.shards = shards
        self.auditor = authority.issue("auditor")

    def channel(self, files: CredentialFiles | None = None) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(
            self.process.config.server.listen, channel_credentials(files or self.auditor)
        )

    async def covered(self) -> None:
        """Wait until every record is acknowledged."""
        async with asyncio.timeout(20):
            while any(shard.acknowledged < len(shard.records) for shard in self.shards):  # noqa: ASYNC110 - it happens in another process
                await asyncio.sleep(0.01)

    def verify(self) -> None:
        """Verify the whole log, with a receipt of every record."""
        receipts = [receipt_of(item) for shard in self.shards for item in shard.records]
        verified = verify_log(
            self.process.config.log.directory, self.process.key, receipts=receipts
        )
        assert verified.checkpoint.size == len(receipts) == len(set(verified.receipts.values()))


@pytest_asyncio.fixture
async def deployment(tmp_path: Path) -> AsyncIterator[Deployment]:
    """Give a deployment with 300 records in each of two shards."""
    authority = CertificateAuthority.create(tmp_path / "tls")
    shards = Shard("eu-1"), Shard("us-1", 6)
    server = authority.issue("server")
    ports = {shard.region: await shard.start(authority, server) for shard in shards}
    process = AuditLogProcess.create(
        tmp_path / "home", authority.issue("audit-log"), ports, (READER,)
    )
    deployment = Deployment(authority, process, *shards)
    for shard in shards:
        shard.add(300)
    await process.start()
    try:
        yield deployment
    finally:
        await process.kill()
        for shard in shards:
            await shard.stop()


async def test_killed_under_load_every_record_is_in_the_log_once(deployment: Deployment) -> None:
    """kill -9 at random moments of the ingestion, again and again (A2)."""
    rng = random.Random(7)  # noqa: S311 - moments to kill at
    writing = True

    async def write() -> None:
        while writing:
            for shard in deployment.shards:
                shard.add(rng.randrange(1, 60))
            await asyncio.sleep(0.01)

    writer = asyncio.create_task(write())
    older: list[str] = []
    for _ in range(4):
        await asyncio.sleep(rng.random() * 0.4)
        await deployment.process.kill()
        older.append((deployment.process.config.log.directory / "checkpoint").read_text())
        await deployment.process.start()
    writing = False
    await writer
    await deployment.covered()
    assert await deployment.process.stop() == 0
    deployment.verify()
    verify_log(
        deployment.process.config.log.directory, deployment.process.key, older_checkpoints=older
    )


async def test_sigterm_ends_cleanly_and_quickly(deployment: Deployment) -> None:
    """Exit code 0, what had arrived is in the log, and the next start goes on."""
    await deployment.covered()
    assert await deployment.process.stop() == 0
    deployment.verify()
    for shard in deployment.shards:
        shard.add(50)
    await deployment.process.start()
    await deployment.covered()
    deployment.verify()
    lines = [json.loads(line) for line in deployment.process.log_lines.read_text().splitlines()]
    assert {line["event"] for line in lines} >= {"started", "connected", "stopped"}


async def test_a_second_process_on_the_same_log_is_refused(deployment: Deployment) -> None:
    """Two signers never share a log (A8)."""
    text = deployment.process.config_file.read_text()
    for section in (deployment.process.config.server, deployment.process.config.ops):
        text = text.replace(section.listen, f"127.0.0.1:{free_port()}")
    config_file = deployment.process.config_file.with_name("second.toml")
    config_file.write_text(text)
    second = AuditLogProcess(config_file, deployment.process.key)
    with pytest.raises(RuntimeError, match="another audit log process"):
        await second.start()
    await deployment.covered()


async def test_proofs_of_every_kind_verify_for_a_caller(deployment: Deployment) -> None:
    """Checkpoint, inclusion by index and by receipt, consistency: checked as a client would."""
    await deployment.covered()
    key = deployment.process.key
    async with deployment.channel() as channel:
        stub = audit_log_service_pb2_grpc.AuditLogServiceStub(channel)
        old_text = (await stub.GetCheckpoint(messages.GetCheckpointRequest())).checkpoint
        deployment.shards[0].add(77)
        await deployment.covered()
        answer = await stub.GetCheckpoint(messages.GetCheckpointRequest())
        assert answer.verifier_key == str(key)
        old, new = open_checkpoint(old_text, key), open_checkpoint(answer.checkpoint, key)
        assert (old.size, new.size) == (600, 677)
        consistency = await stub.GetConsistencyProof(
            messages.GetConsistencyProofRequest(first_size=old.size)
        )
        verify_consistency(
            first=old.size,
            second=consistency.second_size,
            first_root=old.root,
            second_root=new.root,
            proof=list(consistency.hashes),
        )
        wanted = record("us-1", 6, 123)
        receipt = receipt_of(wanted)
        position = RecordPosition(region="us-1", epoch=6, sequence=123)
        found = await stub.GetInclusionProof(messages.GetInclusionProofRequest(position=position))
        assert found.leaf_hash == leaf_hash(wanted)
        proof = TlogProof(found.index, tuple(found.hashes), found.checkpoint)
        verify_receipt_proof(receipt, TlogProof.parse(str(proof)), record=wanted, key=key)
        for index in (0, 255, 256, 676):
            found = await stub.GetInclusionProof(messages.GetInclusionProofRequest(index=index))
            verify_inclusion(
                index=index,
                size=new.size,
                leaf=found.leaf_hash,
                proof=list(found.hashes),
                root=new.root,
            )


async def test_records_are_listed_in_pages_for_readers(deployment: Deployment) -> None:
    """All records once, in the order of the log, and nothing for who may not read them."""
    await deployment.covered()
    async with deployment.channel() as channel:
        stub = audit_log_service_pb2_grpc.AuditLogServiceStub(channel)
        listed: list[bytes] = []
        token = ""
        while True:
            page = await stub.ListRecords(
                messages.ListRecordsRequest(page_size=251, page_token=token)
            )
            assert [item.index for item in page.records] == list(
                range(len(listed), len(listed) + len(page.records))
            )
            listed += [item.record for item in page.records]
            token = page.next_page_token
            if not token:
                break
        assert sorted(listed) == sorted(
            item for shard in deployment.shards for item in shard.records
        )
        tail = await stub.ListRecords(messages.ListRecordsRequest(start_index=600))
        assert (list(tail.records), tail.tree_size, tail.next_page_token) == ([], 600, "")
        assert len((await stub.ListRecords(messages.ListRecordsRequest())).records) == 100


NOT_FOUND = (grpc.StatusCode.NOT_FOUND, "RECORD_NOT_FOUND")
INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "ARGUMENT_INVALID")
REFUSALS: list[tuple[str, Message, tuple[grpc.StatusCode, str]]] = [
    ("GetInclusionProof", messages.GetInclusionProofRequest(index=600), NOT_FOUND),
    (
        "GetInclusionProof",
        messages.GetInclusionProofRequest(
            position=RecordPosition(region="eu-1", epoch=5, sequence=301)
        ),
        NOT_FOUND,
    ),
    (
        "GetInclusionProof",
        messages.GetInclusionProofRequest(
            position=RecordPosition(region="eu-1", epoch=2**64 - 1, sequence=2**64 - 1)
        ),
        NOT_FOUND,
    ),
    ("GetInclusionProof", messages.GetInclusionProofRequest(), INVALID),
    (
        "GetInclusionProof",
        messages.GetInclusionProofRequest(position=RecordPosition(region="EU", epoch=1)),
        INVALID,
    ),
    ("GetConsistencyProof", messages.GetConsistencyProofRequest(), INVALID),
    (
        "GetConsistencyProof",
        messages.GetConsistencyProofRequest(first_size=1, second_size=601),
        INVALID,
    ),
    (
        "GetConsistencyProof",
        messages.GetConsistencyProofRequest(first_size=20, second_size=10),
        INVALID,
    ),
    ("ListRecords", messages.ListRecordsRequest(page_size=1001), INVALID),
    ("ListRecords", messages.ListRecordsRequest(page_token="v1.01"), INVALID),  # noqa: S106 - a page, not a secret
    ("ListRecords", messages.ListRecordsRequest(page_token="v1.5", start_index=5), INVALID),  # noqa: S106 - the same
    ("ListRecords", messages.ListRecordsRequest(page_token="v2.5.0123456789abcdef"), INVALID),  # noqa: S106 - the same
    ("ListRecords", messages.ListRecordsRequest(start_index=601), INVALID),
    (
        "ListRecords",
        messages.ListRecordsRequest(start_index=5, order=messages.RECORD_ORDER_DESCENDING),
        INVALID,
    ),
    ("ListRecords", messages.ListRecordsRequest(order=9), INVALID),  # type: ignore[arg-type]
    *(
        ("ListRecords", messages.ListRecordsRequest(filter=wrong), INVALID)
        for wrong in (
            messages.RecordFilter(keys=[f"{n}" for n in range(17)]),
            messages.RecordFilter(keys=[""]),
            messages.RecordFilter(principals=["x" * 2049]),
            messages.RecordFilter(methods=["De crypt"]),
            messages.RecordFilter(outcomes=["MAYBE"]),
            messages.RecordFilter(reasons=["key_disabled"]),
            messages.RecordFilter(regions=["EU"]),
            messages.RecordFilter(since=Timestamp(seconds=2**40)),
            messages.RecordFilter(until=Timestamp(nanos=-1)),
        )
    ),
    (
        "GetInclusionProof",
        messages.GetInclusionProofRequest(index=0, record_sha256=bytes(31)),
        INVALID,
    ),
]


async def test_refusals_have_their_reason(deployment: Deployment) -> None:
    """Each mistake has its gRPC code and its ErrorInfo with domain and reason."""
    await deployment.covered()
    async with deployment.channel() as channel:
        stub = audit_log_service_pb2_grpc.AuditLogServiceStub(channel)
        for method, request, expected in REFUSALS:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await getattr(stub, method)(request)
            assert (caught.value.code(), reason_of(caught.value)) == expected, request


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """Return the reason in a rich error status."""
    status = rpc_status.from_call(error)
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "strongroom"
    reason: str = info.reason
    return reason


async def test_bytes_that_are_no_message_are_an_invalid_argument(deployment: Deployment) -> None:
    """What does not parse is refused like any other bad request, with its reason."""
    async with deployment.channel() as channel:
        for method in messages.DESCRIPTOR.services_by_name["AuditLogService"].methods_by_name:
            call: Any = channel.unary_unary(f"/strongroom.audit.v1.AuditLogService/{method}")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"\x0a\xff", timeout=10)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "not a message of its type" in str(caught.value.details())


async def test_who_may_ask_for_what(deployment: Deployment, tmp_path: Path) -> None:
    """Proofs for every principal, records for readers, nothing without exactly one identity."""
    await deployment.covered()
    authority = deployment.authority
    request = messages.GetCheckpointRequest()
    async with deployment.channel(authority.issue("orders")) as channel:
        stub = audit_log_service_pb2_grpc.AuditLogServiceStub(channel)
        assert (await stub.GetCheckpoint(request)).checkpoint
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ListRecords(messages.ListRecordsRequest())
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert reason_of(caught.value) == "POLICY_DENIED"
    two = authority.issue("two", READER, "spiffe://example.org/other")
    async with deployment.channel(two) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await audit_log_service_pb2_grpc.AuditLogServiceStub(channel).GetCheckpoint(request)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert reason_of(caught.value) == "PEER_UNAUTHENTICATED"
    stranger = CertificateAuthority.create(tmp_path / "stranger").issue("auditor")
    anonymous = grpc.ssl_channel_credentials(deployment.auditor.ca.read_bytes())
    mixed = grpc.ssl_channel_credentials(
        deployment.auditor.ca.read_bytes(),
        stranger.private_key.read_bytes(),
        stranger.certificate.read_bytes(),
    )
    for credentials in (anonymous, mixed):
        async with grpc.aio.secure_channel(
            deployment.process.config.server.listen, credentials
        ) as channel:
            stub = audit_log_service_pb2_grpc.AuditLogServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.GetCheckpoint(request)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_renewed_certificate_is_served_without_a_restart(deployment: Deployment) -> None:
    """New files are taken up by new connections within seconds; broken ones are refused."""
    request = messages.GetCheckpointRequest()
    files = CredentialFiles(
        deployment.process.config.tls.certificate_file,
        deployment.process.config.tls.private_key_file,
        deployment.process.config.tls.ca_file,
    )
    files.certificate.write_bytes(b"broken")
    await asyncio.sleep(1.5)
    async with deployment.channel() as channel:
        await audit_log_service_pb2_grpc.AuditLogServiceStub(channel).GetCheckpoint(request)
    # Another CA altogether: only the new certificate is good for a client of the new one.
    authority = CertificateAuthority.create(files.ca.parent / "new")
    renewed = authority.issue("audit-log")
    for old, new in zip(
        (files.private_key, files.certificate, files.ca),
        (renewed.private_key, renewed.certificate, renewed.ca),
        strict=True,
    ):
        old.write_bytes(new.read_bytes())
    client = channel_credentials(authority.issue("auditor"))
    async with asyncio.timeout(15):
        while True:
            async with grpc.aio.secure_channel(
                deployment.process.config.server.listen, client
            ) as channel:
                stub = audit_log_service_pb2_grpc.AuditLogServiceStub(channel)
                try:
                    assert (await stub.GetCheckpoint(request)).checkpoint
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.2)
                else:
                    return


async def test_metrics_and_probes(deployment: Deployment) -> None:
    """The ops port tells what a dashboard and an alert need."""
    await deployment.covered()
    assert (await deployment.process.ops("/livez"))[0] == 200
    assert (await deployment.process.ops("/readyz"))[0] == 200
    _, text = await deployment.process.ops("/metrics")
    assert "strongroom_audit_tree_size 600.0" in text
    assert 'strongroom_audit_ingested_records_total{region="us-1"} 300.0' in text
    assert 'strongroom_audit_ingest_errors_total{kind="gap",region="eu-1"} 0.0' in text
    assert (await deployment.process.ops("/other"))[0] == 404
