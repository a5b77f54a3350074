"""What a witness cosigns: the rules of C2SP tlog-witness, without HTTP."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support.audit_records import LogHome, batch

from strongroom.tlog.checkpoint import Checkpoint, open_checkpoint
from strongroom.tlog.cosignature import WitnessPolicy
from strongroom.tlog.merkle import EMPTY_ROOT
from strongroom_auditlog.checkpoint import Signer
from strongroom_auditlog.errors import LogError, StartRefusedError
from strongroom_auditlog.proofs import prove_consistency
from strongroom_auditlog.tiles import LogFiles
from strongroom_auditlog.witness.request import RequestMalformedError, parse_request
from strongroom_auditlog.witness.rules import Accepted, Refusal, Verdict, Witness
from strongroom_auditlog.witness.store import WitnessStore
from strongroom_auditlog.witness_client import add_checkpoint_body

SIZES = (0, 1, 2, 255, 256, 257, 900)


@dataclasses.dataclass
class Growing:
    """A log with all its checkpoints, and a witness of it."""

    home: LogHome
    checkpoints: dict[int, Checkpoint]
    store: WitnessStore
    witness: Witness

    def body(self, old: int, size: int, proof: Sequence[bytes] | None = None) -> bytes:
        """Return a request."""
        if proof is None:
            files, newest = LogFiles(self.home.directory), self.checkpoints[SIZES[-1]]
            proof = prove_consistency(files, newest, old, size) if 0 < old < size else []
        return add_checkpoint_body(old, proof, self.checkpoints[size].text)

    def ask(self, old: int, size: int) -> Accepted:
        """Ask for a cosignature."""
        return self.witness.add_checkpoint(self.body(old, size))

    def refused(self, body: bytes) -> Refusal:
        """Return the refusal of a request, which leaves the store as it was."""
        before = self.store.load(self.home.signer.origin)
        with pytest.raises(Refusal) as caught:
            self.witness.add_checkpoint(body)
        assert self.store.load(self.home.signer.origin) == before
        return caught.value


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[LogHome, dict[int, Checkpoint]]:
    """Give a log and its checkpoints by size."""
    home = LogHome.create(tmp_path_factory.mktemp("log"))
    opened = home.open()
    checkpoints = {0: opened.checkpoint}
    for size, following in itertools.pairwise(SIZES):
        checkpoints[following] = opened.append([batch("eu-1", 5, range(size + 1, following + 1))])
    opened.close()
    return home, checkpoints


@pytest.fixture
def growing(log: tuple[LogHome, dict[int, Checkpoint]], tmp_path: Path) -> Growing:
    """Give a witness that knows nothing yet."""
    home, checkpoints = log
    WitnessStore.create(tmp_path / "witness.sqlite3")
    store = WitnessStore.open(tmp_path / "witness.sqlite3")
    witness = Witness(
        "witness.example.org/w1",
        Ed25519PrivateKey.generate(),
        {home.signer.origin: [home.key]},
        store,
        wall_clock=lambda: 1_700_000_000.9,
    )
    return Growing(home, checkpoints, store, witness)


def test_growth_is_cosigned_step_by_step(growing: Growing) -> None:
    """Every size is cosigned, verifies with the log's and the witness's key, and is kept."""
    old = 0
    for size in SIZES:
        accepted = growing.ask(old, size)
        assert (accepted.origin, accepted.size) == (growing.home.signer.origin, size)
        policy = WitnessPolicy((growing.witness.key,), 1)
        text = growing.checkpoints[size].text + accepted.cosignature.line
        opened = open_checkpoint(text, growing.home.key, policy)
        assert opened.cosignatures[0].timestamp == 1_700_000_000
        assert growing.witness.last_checkpoint(growing.home.signer.origin) == text
        old = size


def test_the_same_checkpoint_is_cosigned_again(growing: Growing) -> None:
    """A log that lost the answer asks again with the size that it signed."""
    growing.ask(0, 256)
    growing.ask(256, 256)


def test_another_old_size_is_a_conflict_that_tells_the_known_one(growing: Growing) -> None:
    """Smaller, larger and zero old sizes; also for a log that is unknown yet."""
    assert growing.refused(growing.body(1, 256)).size == 0
    growing.ask(0, 256)
    for old, size in ((0, 257), (255, 257), (1, 2), (257, 900), (0, 0)):
        refusal = growing.refused(growing.body(old, size))
        assert (refusal.verdict, refusal.size) == (Verdict.CONFLICT, 256)


def test_what_does_not_follow_is_not_cosigned(growing: Growing) -> None:
    """No proof, another one, a cut or longer one, a proof where none may be."""
    good = parse_request(growing.body(255, 900)).proof
    assert growing.refused(growing.body(0, 900, good)).verdict is Verdict.INCONSISTENT
    growing.ask(0, 255)
    wrong = parse_request(growing.body(2, 900)).proof
    for proof in ((), wrong, good[:-1], (*good, good[0]), tuple(reversed(good))):
        refusal = growing.refused(growing.body(255, 900, proof))
        assert (refusal.verdict, refusal.is_fork) == (Verdict.INCONSISTENT, False)
    growing.ask(255, 900)


def test_a_fork_of_the_same_size_is_told_apart(growing: Growing) -> None:
    """Two roots of one size under the log's signature are the proof of a fork (A8)."""
    empty = growing.home.signer.sign(0, bytes(range(32)))
    refusal = growing.refused(add_checkpoint_body(0, [], empty.text))
    assert refusal.verdict is Verdict.INCONSISTENT
    growing.ask(0, 256)
    fork = growing.home.signer.sign(256, bytes(range(32)))
    for old, verdict in ((256, Verdict.INCONSISTENT), (0, Verdict.CONFLICT)):
        refusal = growing.refused(add_checkpoint_body(old, [], fork.text))
        assert (refusal.verdict, refusal.is_fork) == (verdict, True)
        assert refusal.evidence == fork.text


def test_only_known_logs_and_their_signatures_count(growing: Growing) -> None:
    """Another origin, another key under the same name, no signature, a wrong one."""
    origin = growing.home.signer.origin
    foreign = Signer("example.org/other", Ed25519PrivateKey.generate()).sign(1, EMPTY_ROOT)
    refusal = growing.refused(add_checkpoint_body(0, [], foreign.text))
    assert refusal.verdict is Verdict.UNKNOWN_LOG
    impostor = Signer(origin, Ed25519PrivateKey.generate()).sign(256, bytes(32))
    refusal = growing.refused(add_checkpoint_body(0, [], impostor.text))
    assert refusal.verdict is Verdict.BAD_SIGNATURE
    changed = growing.checkpoints[256].text.replace("\n256\n", "\n257\n")
    refusal = growing.refused(add_checkpoint_body(0, [], changed))
    assert refusal.verdict is Verdict.BAD_SIGNATURE
    # A right signature beside a wrong one of the same key is malformed (signed-note).
    both = growing.checkpoints[256].text + growing.checkpoints[255].text.rpartition("\n\n")[2]
    refusal = growing.refused(add_checkpoint_body(0, [], both))
    assert refusal.verdict is Verdict.BAD_SIGNATURE
    # Signatures of others are carried along and not kept.
    extra = growing.checkpoints[256].text + impostor.text.rpartition("\n\n")[2]
    growing.witness.add_checkpoint(add_checkpoint_body(0, [], extra))
    kept = growing.witness.last_checkpoint(origin)
    assert kept is not None
    assert kept.count("\N{EM DASH}") == 2


GOOD_HASH = base64.b64encode(bytes(32)).decode()
NOTE = "o\n1\n" + GOOD_HASH + "\n\n\N{EM DASH} o " + base64.b64encode(bytes(68)).decode() + "\n"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        NOTE.encode(),
        f"old 1\n{NOTE}".encode(),
        f"old 01\n\n{NOTE}".encode(),
        f"old -1\n\n{NOTE}".encode(),
        f"old  1\n\n{NOTE}".encode(),
        f"old {2**63}\n\n{NOTE}".encode(),
        f"old 1\r\n\n{NOTE}".encode(),
        f"old 1\n{GOOD_HASH[:-1]}\n\n{NOTE}".encode(),
        f"old 1\nAAAA\n\n{NOTE}".encode(),
        f"old 1\n{GOOD_HASH[:-2]}B=\n\n{NOTE}".encode(),
        ("old 1\n" + f"{GOOD_HASH}\n" * 64 + f"\n{NOTE}").encode(),
        b"old 1\n\nno note\n",
        f"old 1\n\n{NOTE[:-1]}".encode(),
        f"old 1\n\n{NOTE}\n".encode(),
        f"old 1\n\n{NOTE}".encode() + b" " * 2**17,
    ],
)
def test_malformed_requests_are_one_error(body: bytes) -> None:
    """Whatever is wrong with the form, it comes out as RequestMalformedError."""
    with pytest.raises(RequestMalformedError):
        parse_request(body)


def test_a_proof_may_have_63_hashes() -> None:
    """The limit of the specification is accepted, and one more is not."""
    parse_request(("old 1\n" + f"{GOOD_HASH}\n" * 63 + f"\n{NOTE}").encode())


def test_malformed_checkpoints_and_sizes_are_refused_as_such(growing: Growing) -> None:
    """An old size beyond the checkpoint's, and a text that is no checkpoint."""
    growing.ask(0, 256)
    assert growing.refused(growing.body(900, 256)).verdict is Verdict.MALFORMED
    text = growing.checkpoints[256].text.replace("\n256\n", "\n0256\n")
    assert growing.refused(add_checkpoint_body(0, [], text)).verdict is Verdict.MALFORMED


def test_of_requests_at_the_same_time_one_wins(growing: Growing) -> None:
    """The check and the move are one step: no two answers start from the same size."""
    growing.ask(0, 2)
    bodies = [growing.body(2, size) for size in (255, 256, 257, 900) for _ in range(5)]

    def ask(body: bytes) -> int | None:
        try:
            return growing.witness.add_checkpoint(body).size
        except Refusal as exc:
            return None if exc.verdict is Verdict.CONFLICT else -1

    with ThreadPoolExecutor(8) as pool:
        sizes = [size for size in pool.map(ask, bodies) if size is not None]
    assert len(sizes) == 1
    assert growing.store.load(growing.home.signer.origin).size == sizes[0]


def test_a_store_that_fails_lets_no_cosignature_out(growing: Growing) -> None:
    """What could not be made durable is not said."""
    growing.ask(0, 2)
    growing.store._connection.execute("PRAGMA query_only = ON")
    with pytest.raises(LogError):
        growing.ask(2, 256)
    growing.store._connection.execute("PRAGMA query_only = OFF")
    assert growing.ask(2, 256).size == 256


def test_what_was_cosigned_is_remembered_by_one_process(growing: Growing, tmp_path: Path) -> None:
    """Another process is refused; after a restart nothing is forgotten."""
    growing.ask(0, 256)
    path = tmp_path / "witness.sqlite3"
    program = (
        "import sys; from pathlib import Path\n"
        "from strongroom_auditlog.witness.store import WitnessStore\n"
        "print(WitnessStore.open(Path(sys.argv[1])).load(sys.argv[2]).size)"
    )
    run = partial(subprocess.run, capture_output=True, text=True, timeout=30, check=False)
    command = [sys.executable, "-c", program, str(path), growing.home.signer.origin]
    assert "in use by another witness" in run(command).stderr
    growing.store.close()
    assert run(command).stdout == "256\n"
    with pytest.raises(StartRefusedError, match="never overwritten"):
        WitnessStore.create(path)
    path.unlink()
    with pytest.raises(StartRefusedError, match="must not go on under the same key"):
        WitnessStore.open(path)
