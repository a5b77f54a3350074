"""`audit search`, `tail`, `export`, `summary` and `check-receipts` against a real audit log."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.audit_certificates import CertificateAuthority
from tests.support.audit_process import AuditLogProcess
from tests.support.audit_records import receipt_of, record
from tests.support.audit_shard import Shard
from tests.support.waiting import wait_until

from strongroom.receipts import Receipt
from strongroom_client import (
    AuditUnverifiedError,
    CheckpointStore,
    KmsClient,
    PolicyDeniedError,
    ReceiptLog,
    load_options,
)
from strongroom_server.cli.root import run

pytestmark = [pytest.mark.integration, pytest.mark.timeout(200)]

KEYS = [f"regions/eu-1/keys/0000000{n}-5d0d-4f5e-9a75-1a2b3c4d5e6f" for n in range(3)]
ORDERS, PAYMENTS = "spiffe://example.org/orders", "spiffe://example.org/payments"


def made(n: int) -> bytes:
    """Return record `n`, counting from 0: a minute for each."""
    changes: dict[str, object] = {
        "key": KEYS[n % 3],
        "principal": PAYMENTS if n % 5 == 0 else ORDERS,
        "method": "Encrypt" if n % 4 == 0 else "Decrypt",
        "time": f"2026-01-02T{n // 60:02d}:{n % 60:02d}:00.000000Z",
    }
    if n % 50 == 7:
        changes |= {"outcome": "DENIED", "reason": "POLICY_DENIED"}
    return record("eu-1", 5, n + 1, **changes)


@dataclass(frozen=True)
class Answer:
    """How a command ended, and what it printed."""

    code: int
    stdout: bytes
    stderr: str

    @property
    def json(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.stdout)

    @property
    def lines(self) -> list[bytes]:
        """Standard output in lines."""
        return self.stdout.splitlines()

    @property
    def reason(self) -> str:
        """Reason of the error, with ``-o json``."""
        return str(json.loads(self.stderr.splitlines()[-1])["error"]["reason"])


class World:
    """A shard in a thread of this process, the audit log in a process of its own."""

    def __init__(self, root: Path):
        self.root = root
        self.authority = CertificateAuthority.create(root / "tls")
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.shard: Shard
        self.process: AuditLogProcess
        self.shard, self.process = self.wait(self._start())

    def wait(self, coroutine: Any) -> Any:
        """Run a coroutine in the loop of the shard."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    async def _start(self) -> tuple[Shard, AuditLogProcess]:
        shard = Shard("eu-1")
        port = await shard.start(self.authority, self.authority.issue("server"))
        process = AuditLogProcess.create(
            self.root / "home",
            self.authority.issue("audit-log"),
            {"eu-1": port},
            ("spiffe://example.org/auditor",),
        )
        await process.start()
        return shard, process

    def append(self, count: int) -> None:
        """Log more records and wait until they are."""

        async def add() -> None:
            start = len(self.shard.records)
            self.shard.records += [made(n) for n in range(start, start + count)]
            self.shard._changed.set()

        self.wait(add())
        wait_until(lambda: self.shard.acknowledged == len(self.shard.records))

    @property
    def directory(self) -> Path:
        """The log."""
        return self.process.config.log.directory

    @property
    def vkey(self) -> Path:
        """The verifier key's file."""
        return self.process.config.verifier_key_file

    def config(self, who: str) -> Path:
        """Return a client configuration."""
        path = self.root / f"{who}.toml"
        if not path.exists():
            files = self.authority.issue(who)
            path.write_text(
                f'[tls]\ncertificate_file = "{files.certificate}"\n'
                f'private_key_file = "{files.private_key}"\nca_file = "{files.ca}"\n'
                '[endpoints]\neu-1 = "127.0.0.1:9"\n'
                f'[audit_log]\nendpoint = "{self.process.config.server.listen}"\n'
            )
        return path

    def audit(self, *arguments: str | Path, who: str | None = "auditor", code: int = 0) -> Answer:
        """Run ``strongroom audit``."""
        config = [] if who is None else ["--config", str(self.config(who))]
        out, err = io.BytesIO(), io.StringIO()
        text = io.TextIOWrapper(out, encoding="utf-8", write_through=True)
        with redirect_stdout(text), redirect_stderr(err):
            ended = run(["audit", *map(str, arguments), *config])
        text.flush()
        answer = Answer(ended, out.getvalue(), err.getvalue())
        assert answer.code == code, answer
        return answer

    def offline(self) -> tuple[str | Path, ...]:
        """Return the options that read the log's directory."""
        return ("--log", self.directory, "--vkey", self.vkey)

    def close(self) -> None:
        """End the process and the thread."""
        self.wait(self.process.kill())
        self.wait(self.shard.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A log of 600 records."""
    world = World(tmp_path_factory.mktemp("world"))
    try:
        world.append(600)
        yield world
    finally:
        world.close()


def leaves(answer: Answer) -> list[int]:
    """Return the leaves that a search printed."""
    return [item["leaf"] for item in answer.json]


@pytest.mark.parametrize("offline", [False, True])
@pytest.mark.parametrize(
    ("options", "matches"),
    [
        ((), lambda _: True),
        (("--key", KEYS[1]), lambda n: n % 3 == 1),
        (("--key", KEYS[1].rpartition("/")[2], "--key", KEYS[2]), lambda n: n % 3 > 0),
        (("--principal", PAYMENTS, "--method", "Encrypt"), lambda n: n % 20 == 0),
        (("--outcome", "denied"), lambda n: n % 50 == 7),
        (("--reason", "POLICY_DENIED", "--reason", "X"), lambda n: n % 50 == 7),
        (("--in-region", "us-1"), lambda _: False),
        (
            ("--since", "2026-01-02T01:00:00Z", "--until", "2026-01-02T03:00:00+01:00"),
            lambda n: 60 <= n < 120,
        ),
        (("--since", "2026-01-03"), lambda _: False),
    ],
)
def test_records_are_found(world: World, offline: bool, options: Any, matches: Any) -> None:  # noqa: FBT001 - a parameter of pytest
    """Each option finds exactly its records, asked of the service and of a verified copy."""
    expected = [n for n in range(600) if matches(n)]
    where = world.offline() if offline else ()
    who = None if offline else "auditor"
    search = ("search", "-o", "json", *options, *where)
    assert leaves(world.audit(*search, who=who)) == expected
    assert leaves(world.audit(*search, "--newest-first", who=who)) == expected[::-1]
    few = world.audit(*search, "-n", "2", who=who)
    assert leaves(few) == expected[:2]
    assert ("there are more than 2" in few.stderr) == (len(expected) > 2)


def test_lines_are_the_records_themselves(world: World) -> None:
    """jsonl is the exact bytes; the other forms name the leaf and the receipt of the same."""
    records = world.shard.records
    assert world.audit("search", "-n", "0", "-o", "jsonl").lines == records[:600]
    for form, extra in (("cloudtrail", "additionalEventData"), ("ocsf", "unmapped")):
        events = [json.loads(line) for line in world.audit("search", "-o", form).lines]
        assert [event[extra]["receipt"] for event in events] == [
            str(receipt_of(item)) for item in records[:600]
        ]
    table = world.audit("search", "--outcome", "DENIED").lines
    assert len(table) == 12
    assert b"DENIED POLICY_DENIED" in table[0]


def test_the_tail_is_filtered_too(world: World) -> None:
    """`tail` prints the newest that match, oldest of them first."""
    lines = world.audit("tail", "-n", "3", "--principal", PAYMENTS, "-o", "json").lines
    assert lines == [world.shard.records[n] for n in (585, 590, 595)]
    assert world.audit("tail", "-n", "3", "--principal", "spiffe://example.org/x").lines == []


def test_a_caller_who_is_no_reader_finds_nothing(world: World) -> None:
    """Records are for readers; a copy that does not verify is for nobody."""
    refused = world.audit("search", "-o", "json", who="stranger", code=3)
    assert refused.reason == "POLICY_DENIED"
    copy = world.root / "copy"
    shutil.copytree(world.directory, copy)
    entries = copy / "tile/entries/000"
    entries.chmod(0o600)
    entries.write_bytes(entries.read_bytes().replace(b"orders", b"others", 1))
    options = ("--log", copy, "--vkey", world.vkey, "-o", "json")
    assert world.audit("search", *options, who=None, code=6).reason == "UNVERIFIABLE"
    assert world.audit("search", "--log", copy, "-o", "json", who=None, code=2).reason == "USAGE"


@pytest.mark.parametrize(
    "options",
    [
        ("--since", "tomorrow"),
        ("--until", "3y"),
        ("--since", "0001-01-01T00:00:00+23:00"),
        ("--outcome", "maybe"),
        ("--method", "De crypt"),
        ("--log", "/nonexistent"),
        ("--vkey", "x"),
    ],
)
def test_wrong_options_are_told(world: World, options: Any) -> None:
    """A value that cannot be meant is a usage error."""
    answer = world.audit("search", *options, "-o", "json", code=2)
    assert answer.reason in {"USAGE", "ARGUMENT_INVALID"}


@pytest.mark.parametrize("form", ["cloudtrail", "ocsf", "jsonl"])
def test_an_export_goes_on_where_it_was(world: World, tmp_path: Path, form: str) -> None:
    """Interrupted anywhere, run again and again while the log grows, a file has each once."""
    out = tmp_path / "events"
    export = ("export", "--format", form, "--out", out, "-o", "json", "--principal", ORDERS)
    first = world.audit(*export).json
    assert first["from_leaf"] == 0
    whole = out.read_bytes()
    assert out.stat().st_mode & 0o777 == 0o600
    assert world.audit(*export).json["records"] == 0
    for cut in (1, 100, 3_000):
        out.write_bytes(whole[:-cut])
        world.audit(*export)
        assert out.read_bytes() == whole
    world.append(10)
    assert world.audit(*export).json["records"] == 8
    assert world.audit(*export, *world.offline(), who=None).json["records"] == 0
    out.unlink()
    world.audit(*export)
    lines = out.read_bytes().splitlines()
    assert len(lines) == len(set(lines))
    assert out.read_bytes().startswith(whole)
    expected = [item for item in world.shard.records if ORDERS.encode() in item]
    assert len(lines) == len(expected)
    if form == "jsonl":
        assert lines == expected


def test_an_export_never_mixes_two_logs(world: World, tmp_path: Path) -> None:
    """A file of another form, of another log, or of something else is left as it is."""
    out = tmp_path / "events"
    export = ("export", "--format", "jsonl", "--out", out, "-o", "json")
    other = record("eu-1", 5, 3, method="Sign")
    for content, reason, code in (
        (b"notes\n", "USAGE", 2),
        (b'{"a": 1}\n', "USAGE", 2),
        (b"[]\n", "USAGE", 2),
        (other + b"\n", "UNVERIFIABLE", 6),
        (record("ap-1", 5, 3) + b"\n", "UNVERIFIABLE", 6),
    ):
        out.write_bytes(content)
        assert world.audit(*export, code=code).reason == reason
        assert out.read_bytes() == content


def test_a_summary_counts_what_is_there(world: World) -> None:
    """Counts, refusals, first and last use are those of the records, flat and in buckets."""
    count = len(world.shard.records)
    rows = world.audit("summary", "-o", "json").json
    assert [row["key"] for row in rows] == KEYS
    assert sum(row["records"] for row in rows) == count
    assert rows[0]["first"] == "2026-01-02T00:00:00.000000Z"
    principals = world.audit("summary", "--by", "principal", "-o", "json").json
    assert {row["principal"]: row["records"] for row in principals} == {
        ORDERS: sum(n % 5 > 0 for n in range(count)),
        PAYMENTS: sum(n % 5 == 0 for n in range(count)),
    }
    hours = world.audit(
        "summary", "--bucket", "hour", "--by", "method", "--until", "2026-01-02T02:00:00Z",
        "-o", "json", *world.offline(), who=None,
    ).json  # fmt: skip
    assert [(row["time"], row["method"], row["records"]) for row in hours] == [
        ("2026-01-02T00:00:00Z", "Decrypt", 45),
        ("2026-01-02T00:00:00Z", "Encrypt", 15),
        ("2026-01-02T01:00:00Z", "Decrypt", 45),
        ("2026-01-02T01:00:00Z", "Encrypt", 15),
    ]
    assert sum(row["denied"] for row in hours) == 3
    table = world.audit("summary", "--by", "key", "--by", "method", "--since", "2026-01-02").lines
    assert table[0].split()[:3] == [b"KEY", b"METHOD", b"RECORDS"]
    assert len(table) == 7
    text = world.audit("summary", "--by", "principal", "-o", "prometheus").stdout.decode()
    assert f'strongroom_audit_summary_records{{principal="{ORDERS}",outcome="DENIED"}} ' in text
    usage = world.audit("summary", "-o", "prometheus", "--bucket", "day", code=2)
    assert "--bucket" in usage.stderr


def test_kept_receipts_are_checked(world: World, tmp_path: Path) -> None:
    """Good receipts pass in bulk; missing and forged ones are named, online and offline."""
    kept = tmp_path / "receipts.jsonl"
    good = [receipt_of(item) for item in world.shard.records[:40]]
    with ReceiptLog(kept) as log:
        log.add(tuple(good), method="Decrypt")
    online = ("check-receipts", kept, "--vkey", world.vkey, "-o", "json")
    store = ("--checkpoint-store", tmp_path / "seen")
    assert world.audit(*online, *store).json == []
    assert world.audit(*online, "--log", world.directory).json == []
    missing = Receipt("eu-1", 5, 999_999, bytes(32))
    forged = Receipt("eu-1", 5, 7, bytes(32))
    plain = tmp_path / "plain"
    plain.write_text(f"{good[0]}\n{missing}\n{forged}\n")
    for options in ((*online, *store), (*online, "--log", world.directory)):
        answer = world.audit(*options, plain, code=6)
        assert answer.reason == "UNVERIFIABLE"
        problems = {row["receipt"]: row["problem"] for row in answer.json}
        assert set(problems) == {str(missing), str(forged)}
        assert problems[str(missing)] == "not in the log"
        assert "another record" in problems[str(forged)]
        assert "40 of 42 receipts" in answer.stderr
    (tmp_path / "strange").write_text("{nonsense\n")
    assert world.audit(*online, tmp_path / "strange", code=2).reason == "USAGE"


def test_the_sdk_verifies_over_the_wire(world: World, tmp_path: Path) -> None:
    """Principal and readers are shown the record; others cannot verify without its bytes."""
    receipt = receipt_of(world.shard.records[11])
    key = world.vkey.read_text()
    kept = CheckpointStore(tmp_path / "seen")
    for who in ("orders", "auditor"):
        with KmsClient(load_options(world.config(who))) as kms:
            verified = kms.audit.verify(receipt, verifier_key=key, checkpoints=kept)
            assert (verified.index, verified.record) == (11, world.shard.records[11])
            proof = kms.audit.prove(receipt)
            assert proof.startswith("c2sp.org/tlog-proof@v1\nindex 11\n")
    with KmsClient(load_options(world.config("payments"))) as kms:
        with pytest.raises(PolicyDeniedError):
            kms.audit.verify(receipt, verifier_key=key)
        record_bytes = world.shard.records[11]
        kms.audit.verify(receipt, verifier_key=key, record=record_bytes, checkpoints=kept)
        # Without the record's hash nobody is told whether it is theirs.
        forged = Receipt(receipt.region, receipt.epoch, receipt.sequence, bytes(32))
        with pytest.raises(AuditUnverifiedError):
            kms.audit.verify(forged, verifier_key=key)


def test_what_was_pruned_is_left_out_and_told(tmp_path: Path) -> None:
    """Behind the mark all is found; what is below is told, and an export does not skip it."""
    world = World(tmp_path)
    try:
        world.append(600)
        out = tmp_path / "events"
        export = ("export", "--format", "jsonl", "--out", out, "-o", "json")
        world.audit(*export)
        (tmp_path / "archive").mkdir()
        config = ("--config", world.process.config_file, "--before-leaf", "512")
        world.audit("archive", *config, "--to", tmp_path / "archive", who=None)
        world.audit("prune", *config, "--archived-in", tmp_path / "archive", who=None)
        expected = [n for n in range(512, 600) if n % 3 == 1]
        search = ("search", "--key", KEYS[1], "-o", "json", "-n", "0")
        for options, who in (((), "auditor"), (world.offline(), None)):
            for order, leaf_numbers in (((), expected), (("--newest-first",), expected[::-1])):
                answer = world.audit(*search, *order, *options, who=who)
                assert leaves(answer) == leaf_numbers
                assert "below leaf 512" in answer.stderr
        assert world.audit("tail", "-n", "2", "--key", KEYS[1], "-o", "json").lines == [
            world.shard.records[n] for n in expected[-2:]
        ]
        world.append(5)
        assert world.audit(*export).json["records"] == 5
        out.unlink()
        assert world.audit(*export, code=5).reason == "RECORD_ARCHIVED"
    finally:
        world.close()
