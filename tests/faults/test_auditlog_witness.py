"""The audit log under witnesses: nothing counts before the quorum, and no fork gets one."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from tests.support.audit_certificates import CertificateAuthority
from tests.support.audit_process import AuditLogProcess
from tests.support.audit_records import LogHome, batch, receipt_of
from tests.support.audit_shard import Shard
from tests.support.witness import WitnessProcess

from strongroom.tlog.cosignature import WitnessPolicy
from strongroom.tlog.errors import WitnessesMissingError
from strongroom_auditlog.keys import create_signing_key
from strongroom_auditlog.verify import verify_log

pytestmark = pytest.mark.integration

STRONGROOM = (sys.executable, "-m", "strongroom_server.cli")
ORIGIN = "audit.example.org/strongroom"


def strongroom(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return subprocess.run(
        [*STRONGROOM, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


class Deployment:
    """A shard in the test's process; the audit log and its witnesses in their own."""

    def __init__(self, root: Path, authority: CertificateAuthority, shard: Shard):
        self.root = root
        self.authority = authority
        self.shard = shard
        self.signer = create_signing_key(
            origin=ORIGIN, private_key_file=root / "log.key", verifier_key_file=root / "log.vkey"
        )
        self.witnesses: list[WitnessProcess] = []
        self.log: AuditLogProcess | None = None

    async def start(
        self, witnesses: int, quorum: int, *, running: int | None = None, interval: float = 0.2
    ) -> AuditLogProcess:
        """Make a log with witnesses, and start it and `running` of them."""
        for number in range(witnesses):
            name = f"witness.example.org/w{number}"
            self.witnesses.append(
                WitnessProcess.create(self.root / f"w{number}", name, self.signer.verifier_key)
            )
        for witness in self.witnesses[:running]:
            await witness.start()
        port = await self.shard.start(self.authority, self.authority.issue("server"))
        more = [
            line
            for number, witness in enumerate(self.witnesses)
            for line in (
                "[[witnesses]]",
                f'name = "w{number}"',
                f'url = "{witness.url}"',
                f'verifier_key = "{witness.key}"',
            )
        ]
        self.log = AuditLogProcess.create(
            self.root / "home",
            self.authority.issue("audit-log"),
            {self.shard.region: port},
            log=(
                f'private_key_file = "{self.root / "log.key"}"',
                f"witness_quorum = {quorum}",
                f"witness_interval_seconds = {interval}",
            ),
            more=tuple(more),
        )
        return self.log

    async def covered(self, seconds: float = 30) -> None:
        """Wait until every record is acknowledged."""
        await self.until(lambda: self.shard.acknowledged == len(self.shard.records), seconds)

    async def until(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        """Wait for something."""
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 - it happens in another process
                await asyncio.sleep(0.01)

    async def ready(self, status: int, text: str = "") -> str:
        """Wait until the log's readiness is as it should be; return what it says."""
        assert self.log is not None
        async with asyncio.timeout(20):
            while True:
                answer = await self.log.ops("/readyz?verbose")
                if answer[0] == status and text in answer[1]:
                    return answer[1]
                await asyncio.sleep(0.05)

    def verify(self, required: int) -> int:
        """Verify the log with its witnesses and a receipt of every record; return its size."""
        assert self.log is not None
        policy = WitnessPolicy(tuple(witness.key for witness in self.witnesses), required)
        receipts = [receipt_of(item) for item in self.shard.records[: self.shard.acknowledged]]
        directory = self.log.config.log.directory
        verified = verify_log(directory, self.log.key, witnesses=policy, receipts=receipts)
        assert len(verified.checkpoint.cosignatures) >= required
        return verified.checkpoint.size

    async def end(self) -> None:
        """End all processes."""
        if self.log is not None:
            await self.log.kill()
        for witness in self.witnesses:
            await witness.kill()
        await self.shard.stop()


@pytest_asyncio.fixture
async def deployment(tmp_path: Path) -> AsyncIterator[Deployment]:
    """Give a deployment that does not run yet."""
    authority = CertificateAuthority.create(tmp_path / "tls")
    deployment = Deployment(tmp_path, authority, Shard())
    try:
        yield deployment
    finally:
        await deployment.end()


async def test_what_is_acknowledged_is_cosigned(deployment: Deployment) -> None:
    """Through growth and a restart, each published checkpoint carries its cosignatures."""
    log = await deployment.start(2, 2)
    deployment.shard.add(300)
    await log.start()
    await deployment.covered()
    assert deployment.verify(2) == 300
    for _ in range(5):
        deployment.shard.add(37)
        await deployment.covered()
        deployment.verify(2)
    assert await log.stop() == 0
    deployment.shard.add(50)
    await log.start()
    await deployment.covered()
    assert deployment.verify(2) == 535
    _, metrics = await log.ops("/metrics")
    assert "strongroom_audit_checkpoint_cosignatures 2.0" in metrics
    assert "strongroom_audit_quorum_missing 0.0" in metrics
    # A cosignature in the published checkpoint tells where its witness is: no conflicts.
    assert 'strongroom_audit_witness_requests_total{outcome="conflict",witness="w0"} 0.0' in metrics


async def test_the_command_line_asks_for_witnesses(deployment: Deployment) -> None:
    """`audit verify` and `audit prove` take the policy; too few is exit code 6."""
    log = await deployment.start(2, 1, running=1)
    deployment.shard.add(10)
    await log.start()
    await deployment.covered()
    first, second = deployment.witnesses
    common = ["audit", "verify", "--log", str(log.config.log.directory)]
    common += ["--vkey", str(deployment.root / "log.vkey")]
    good = strongroom(*common, "--witness", str(first.config.verifier_key_file))
    assert good.returncode == 0, good
    assert "cosigned by witness.example.org/w0" in good.stdout
    both = [*common, "--witness", str(first.key), "--witness", str(second.key)]
    bad = strongroom(*both)
    assert (bad.returncode, "2 are required" in bad.stderr) == (6, True), bad
    assert strongroom(*both, "--witnesses-required", "1").returncode == 0
    assert strongroom(*both, "--witnesses-required", "3").returncode == 2
    assert strongroom(*common, "--witness", str(log.key)).returncode == 2


async def test_without_a_quorum_nothing_is_published_or_acknowledged(
    deployment: Deployment,
) -> None:
    """Records are taken and wait; readiness and metrics say for whom; then all goes on."""
    log = await deployment.start(2, 2)
    deployment.shard.add(100)
    await log.start()
    await deployment.covered()
    first, second = deployment.witnesses
    await second.kill()
    deployment.shard.add(100)
    text = await deployment.ready(503, "1 of 2 required cosignatures")
    assert "w1: " in text
    await asyncio.sleep(1)
    assert deployment.shard.acknowledged == 100
    assert deployment.verify(2) == 100
    assert "strongroom_audit_quorum_missing 1.0" in (await log.ops("/metrics"))[1]
    # Killed while it waits, it knows afterwards what it had taken, and acknowledges nothing.
    await log.kill()
    with log.log_lines.open("ab") as output:
        log.process = await asyncio.create_subprocess_exec(
            *log.command, stdout=output, stderr=output
        )
    await deployment.ready(503, "1 of 2 required cosignatures")
    assert deployment.shard.acknowledged == 100
    await second.start()
    await deployment.covered()
    await deployment.ready(200)
    assert deployment.verify(2) == 200
    assert first.process is not None


async def test_a_dead_witness_beyond_the_quorum_holds_nobody_up(
    deployment: Deployment, figures: Callable[..., None]
) -> None:
    """Two of three: one is away, and checkpoints go on with the other two."""
    log = await deployment.start(3, 2)
    await log.start()
    deployment.shard.add(10)
    await deployment.covered()
    await deployment.witnesses[0].kill()
    took = []
    for _ in range(5):
        began = time.monotonic()
        deployment.shard.add(10)
        await deployment.covered()
        took.append(time.monotonic() - began)
    figures(one_of_three_dead_p50_s=statistics.median(took))
    assert deployment.verify(2) == 60
    await deployment.ready(200)


async def test_a_quorum_of_none_takes_what_comes(deployment: Deployment) -> None:
    """With quorum 0 a witness that is away stops nothing; one that is there is in."""
    log = await deployment.start(1, 0)
    await log.start()
    deployment.shard.add(10)
    await deployment.covered()
    assert deployment.verify(1) == 10
    # One that hangs is waited for for a moment, and not asked again before it has answered.
    process = deployment.witnesses[0].process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    deployment.shard.add(10)
    await deployment.covered()
    assert time.monotonic() - began < 3
    await deployment.witnesses[0].kill()
    deployment.shard.add(10)
    await deployment.covered()
    assert deployment.verify(0) == 30
    with pytest.raises(WitnessesMissingError):
        deployment.verify(1)


async def test_a_backup_of_everything_that_the_log_has_gets_no_quorum(
    deployment: Deployment,
) -> None:
    """Log, state and last checkpoint restored together: only the witness can tell (A8)."""
    log = await deployment.start(1, 1)
    deployment.shard.add(100)
    await log.start()
    await deployment.covered()
    assert await log.stop() == 0
    backup = shutil.copytree(deployment.root / "home", deployment.root / "backup")
    await log.start()
    deployment.shard.add(100)
    await deployment.covered()
    assert await log.stop() == 0
    for name in ("log", "state.sqlite3", "last-checkpoint.sqlite3", "index.sqlite3"):
        path = deployment.root / "home" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        source = backup / name
        if source.is_dir():
            shutil.copytree(source, path)
        elif source.exists():
            shutil.copy(source, path)
    deployment.shard.acknowledged = 100  # so that it is not the shard that notices
    with log.log_lines.open("ab") as output:
        log.process = await asyncio.create_subprocess_exec(
            *log.command, stdout=output, stderr=output
        )
    text = await deployment.ready(503, "required cosignatures")
    assert "it has seen 200 leaves, this log has 1" in text
    _, metrics = await log.ops("/metrics")
    assert 'strongroom_audit_witness_requests_total{outcome="ahead",witness="w0"} 0' not in metrics
    assert deployment.shard.acknowledged == 100


async def test_a_split_view_is_cosigned_once(deployment: Deployment) -> None:
    """Two histories under one key: the witness has one, and the policy refuses the other."""
    log = await deployment.start(1, 1)
    deployment.shard.add(100)
    await log.start()
    await deployment.covered()
    assert await log.stop() == 0
    # The operator's other history: same key, same first 100 records, then another one.
    other = LogHome(deployment.root / "other", deployment.signer)
    other.root.mkdir()
    for name in ("log", "state.sqlite3", "last-checkpoint.sqlite3"):
        source, target = deployment.root / "home" / name, other.root / name
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    other.fill(batch("us-1", 5, range(1, 51)))
    deployment.shard.add(50)
    await log.start()
    await deployment.covered()
    assert await log.stop() == 0
    assert deployment.verify(1) == 150
    key, policy = log.key, WitnessPolicy((deployment.witnesses[0].key,), 1)
    # Without witnesses each of the two looks right.
    assert verify_log(other.directory, key).checkpoint.size == 150
    with pytest.raises(WitnessesMissingError):
        verify_log(other.directory, key, witnesses=policy)
    # Nor can the operator have it cosigned, as it stands or as growth of the first.
    forked = AuditLogProcess(deployment.root / "home" / "forked.toml", key)
    text = log.config_file.read_text()
    for name, source in (
        ("log", other.directory),
        ("state.sqlite3", other.state_file),
    ):
        text = text.replace(f'= "{name}"', f'= "{source}"')
    forked.config_file.write_text(text)
    deployment.log = forked
    with (deployment.root / "forked.jsonl").open("ab") as output:
        forked.process = await asyncio.create_subprocess_exec(
            *forked.command, stdout=output, stderr=output
        )
    await deployment.ready(503, "required cosignatures")
    metrics = (await asyncio.to_thread(deployment.witnesses[0].get, "/metrics"))[1]
    assert "strongroom_witness_forks_total 0.0" not in metrics
    with pytest.raises(WitnessesMissingError):
        verify_log(other.directory, key, witnesses=policy)


@pytest.mark.parametrize("witnesses", [0, 1])
async def test_event_to_checkpoint(
    deployment: Deployment, figures: Callable[..., None], witnesses: int
) -> None:
    """How long a record waits for its acknowledgement, with a witness a second and without."""
    log = await deployment.start(witnesses, witnesses, interval=1.0)
    await log.start()
    shard = deployment.shard
    shard.add(1)
    await deployment.covered()
    written: list[float] = []
    took: list[float] = []
    end = time.monotonic() + 6
    while time.monotonic() < end or len(took) < len(written):
        now = time.monotonic()
        if now < end:
            shard.add(5)
            written += [now] * 5
        while len(took) < shard.acknowledged - 1:
            took.append(now - written[len(took)])
        await asyncio.sleep(0.01)
    took.sort()
    p50, p99 = took[len(took) // 2], took[int(len(took) * 0.99)]
    figures(
        witnesses=witnesses,
        records=len(took),
        event_to_acknowledgement_p50_s=p50,
        event_to_acknowledgement_p99_s=p99,
    )
    assert deployment.verify(witnesses) == len(shard.records)
    # The issue's promise is for a quiet machine and is measured by the benchmark.
    assert p99 < (3.0 if witnesses else 2.0)
    lines = [json.loads(line) for line in log.log_lines.read_text().splitlines()]
    assert not [line for line in lines if line["level"] == "error"]
