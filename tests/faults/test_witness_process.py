"""The witness as a process: exact answers, bounds, and what it remembers after a kill."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.support.audit_certificates import CertificateAuthority
from tests.support.audit_records import LogHome, batch
from tests.support.witness import WitnessProcess

from strongroom.tlog.checkpoint import Checkpoint, open_checkpoint
from strongroom.tlog.cosignature import WitnessPolicy
from strongroom_auditlog.proofs import prove_consistency
from strongroom_auditlog.witness_client import (
    Answer,
    Outcome,
    WitnessClient,
    WitnessEndpoint,
    add_checkpoint_body,
)

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[LogHome, list[Checkpoint]]:
    """Give a log and its checkpoints of 10, 300 and 900 leaves."""
    home = LogHome.create(tmp_path_factory.mktemp("log"))
    opened = home.open()
    checkpoints = [
        opened.append([batch("eu-1", 5, range(first, end))])
        for first, end in ((1, 11), (11, 301), (301, 901))
    ]
    opened.close()
    return home, checkpoints


@pytest_asyncio.fixture
async def witness(
    log: tuple[LogHome, list[Checkpoint]], tmp_path: Path
) -> AsyncIterator[WitnessProcess]:
    """Run a witness of the log."""
    process = WitnessProcess.create(tmp_path / "witness", "witness.example.org/w1", log[0].key)
    await process.start()
    yield process
    await process.kill()


async def ask(witness: WitnessProcess, body: bytes) -> tuple[int, str, str]:
    return await asyncio.to_thread(witness.post, body)


async def test_every_status_is_that_of_the_specification(
    log: tuple[LogHome, list[Checkpoint]], witness: WitnessProcess, tmp_path: Path
) -> None:
    """200, 400, 403, 404, 409 with the size, 413, 422, and other methods and paths."""
    home, (small, middle, large) = log
    opened = home.open()
    from_small = prove_consistency(opened.files, large, small.size, middle.size)
    from_middle = prove_consistency(opened.files, large, middle.size, large.size)
    opened.close()
    other = LogHome.create(tmp_path / "other")
    impostor = other.signer.sign(small.size, small.root).text
    requests: list[tuple[bytes, int, str | None]] = [
        (b"", 400, None),
        (b"old 5\n\nnonsense\n", 400, None),
        (add_checkpoint_body(20, [], small.text), 400, None),
        (add_checkpoint_body(0, [], impostor), 403, None),
        (
            add_checkpoint_body(0, [], small.text.replace(home.key.name, "example.org/x")),
            404,
            None,
        ),
        (add_checkpoint_body(5, from_small, middle.text), 409, "0\n"),
        (add_checkpoint_body(0, from_small, small.text), 422, None),
        (add_checkpoint_body(0, [], small.text), 200, None),
        (add_checkpoint_body(0, [], small.text), 409, "10\n"),
        (add_checkpoint_body(10, from_middle, middle.text), 422, None),
        (add_checkpoint_body(10, from_small, middle.text), 200, None),
        (add_checkpoint_body(300, from_middle, large.text), 200, None),
        (b"old 0\n" + b"x" * 2**18, 413, None),
    ]
    for body, status, text in requests:
        answer = await ask(witness, body)
        assert answer[0] == status, (body[:60], answer)
        if text is not None:
            assert answer[1:] == (text, "text/x.tlog.size")
    assert (await asyncio.to_thread(witness.get, "/add-checkpoint", ops=False))[0] == 405
    assert (await asyncio.to_thread(witness.get, "/other", ops=False))[0] == 404
    metrics = (await asyncio.to_thread(witness.get, "/metrics"))[1]
    for line in (
        'strongroom_witness_requests_total{verdict="cosigned"} 3.0',
        'strongroom_witness_requests_total{verdict="conflict"} 2.0',
        'strongroom_witness_requests_total{verdict="bad_signature"} 1.0',
        'strongroom_witness_requests_total{verdict="too_large"} 1.0',
        f'strongroom_witness_tree_size{{origin="{home.key.name}"}} 900.0',
        "strongroom_witness_forks_total 0.0",
    ):
        assert line in metrics


async def test_the_last_checkpoint_is_served_with_both_signatures(
    log: tuple[LogHome, list[Checkpoint]], witness: WitnessProcess
) -> None:
    """Monitors get what was cosigned, under the hash of the origin."""
    home, (small, *_) = log
    path = f"/{hashlib.sha256(home.key.name.encode()).hexdigest()}/checkpoint"
    assert (await asyncio.to_thread(witness.get, path, ops=False))[0] == 404
    answer = await ask(witness, add_checkpoint_body(0, [], small.text))
    served = (await asyncio.to_thread(witness.get, path, ops=False))[1]
    assert served == small.text + answer[1]
    opened = open_checkpoint(served, home.key, WitnessPolicy((witness.key,), 1))
    assert abs(opened.cosignatures[0].timestamp - time.time()) < 60
    nobody = f"/{hashlib.sha256(b'nobody').hexdigest()}/checkpoint"
    assert (await asyncio.to_thread(witness.get, nobody, ops=False))[0] == 404


async def test_nothing_is_forgotten_by_a_kill(
    log: tuple[LogHome, list[Checkpoint]], witness: WitnessProcess
) -> None:
    """kill -9 right after each answer: the next process knows what was said."""
    home, checkpoints = log
    opened = home.open()
    old = 0
    for checkpoint in checkpoints:
        proof = (
            prove_consistency(opened.files, checkpoints[-1], old, checkpoint.size) if old else []
        )
        assert (await ask(witness, add_checkpoint_body(old, proof, checkpoint.text)))[0] == 200
        await witness.kill()
        await witness.start()
        answer = await ask(witness, add_checkpoint_body(0, [], checkpoint.text))
        assert answer[:2] == (409, f"{checkpoint.size}\n")
        old = checkpoint.size
    opened.close()
    assert await witness.stop() == 0


async def test_slow_and_silent_peers_do_not_keep_others_out(
    log: tuple[LogHome, list[Checkpoint]], witness: WitnessProcess
) -> None:
    """Fifty connections that say nothing, or half a request, cost the others nothing."""
    host, _, port = witness.config.server.listen.rpartition(":")
    head = b"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nold 0"
    held = [socket.create_connection((host, int(port))) for _ in range(50)]
    for connection in held[::2]:
        connection.sendall(head)
    began = time.monotonic()
    answer = await ask(witness, add_checkpoint_body(0, [], log[1][0].text))
    assert answer[0] == 200
    assert time.monotonic() - began < 2
    # The half requests are answered when the time for a body is over.
    held[0].settimeout(15)
    assert b" 400 " in await asyncio.to_thread(held[0].recv, 1000)
    for connection in held:
        connection.close()


async def test_a_fork_is_told_in_metrics_and_log(
    log: tuple[LogHome, list[Checkpoint]], witness: WitnessProcess
) -> None:
    """The second root of a size is refused, counted, and kept as a line that proves it (A8)."""
    home, (small, *_) = log
    assert (await ask(witness, add_checkpoint_body(0, [], small.text)))[0] == 200
    fork = home.signer.sign(small.size, bytes(32)).text
    assert (await ask(witness, add_checkpoint_body(small.size, [], fork)))[0] == 422
    metrics = (await asyncio.to_thread(witness.get, "/metrics"))[1]
    assert "strongroom_witness_forks_total 1.0" in metrics
    lines = [json.loads(line) for line in witness.log_lines.read_text().splitlines()]
    [told] = [line for line in lines if line["level"] == "error"]
    assert open_checkpoint(told["checkpoint"], home.key).text == fork


async def test_https_and_a_kept_connection(
    log: tuple[LogHome, list[Checkpoint]], tmp_path: Path
) -> None:
    """Our client trusts the CA that it was given, and uses one connection for all requests."""
    home, checkpoints = log
    authority = CertificateAuthority.create(tmp_path / "tls")
    files = authority.issue("witness")
    witness = WitnessProcess.create(tmp_path / "witness", "witness.example.org/w1", home.key)
    text = witness.config_file.read_text()
    tls = f'certificate_file = "{files.certificate}"\nprivate_key_file = "{files.private_key}"\n'
    witness.config_file.write_text(text.replace("[ops]", f"{tls}[ops]"))
    await witness.start()
    try:
        url = witness.url.replace("http://", "https://")
        client = WitnessClient(WitnessEndpoint("w1", url, witness.key, files.ca))
        opened = home.open()

        def all_three() -> list[Answer]:
            answers, old = [], 0
            for checkpoint in checkpoints:
                proof = (
                    prove_consistency(opened.files, checkpoints[-1], old, checkpoint.size)
                    if old
                    else []
                )
                answers.append(client.ask(old, proof, checkpoint))
                old = checkpoint.size
            return answers

        answers = await asyncio.to_thread(all_three)
        opened.close()
        assert [answer.outcome for answer in answers] == [Outcome.COSIGNED] * 3, answers
        stranger = WitnessClient(WitnessEndpoint("w1", url, witness.key))
        refused = await asyncio.to_thread(stranger.ask, 0, [], checkpoints[0])
        assert refused.outcome is Outcome.UNREACHABLE
        assert "certificate" in refused.detail.lower()
        stranger.close()
        client.close()
    finally:
        await witness.kill()


def test_our_client_believes_nothing_that_is_not_signed(
    log: tuple[LogHome, list[Checkpoint]],
) -> None:
    """Wrong keys, wrong forms, endless answers: each has its outcome, none an exception."""
    import threading  # noqa: PLC0415 - beside its one use
    from http.server import BaseHTTPRequestHandler, HTTPServer  # noqa: PLC0415

    from tests.support.witness import TestCosigner  # noqa: PLC0415

    _, (small, middle, _) = log
    known, stranger = TestCosigner("w.example"), TestCosigner("w.example")
    size = "text/x.tlog.size"
    answers: list[tuple[int, str, bytes, Outcome]] = [
        (200, "", known.line(small.text).encode(), Outcome.COSIGNED),
        (200, "", (stranger.line(small.text) + known.line(small.text)).encode(), Outcome.COSIGNED),
        (200, "", stranger.line(small.text).encode(), Outcome.INVALID),
        (200, "", known.line(middle.text).encode(), Outcome.INVALID),
        (200, "", b"", Outcome.INVALID),
        (200, "", b"\xff\n", Outcome.INVALID),
        (200, "", b"x" * 2**17, Outcome.UNREACHABLE),
        (409, size, b"5\n", Outcome.CONFLICT),
        (409, size, b"11\n", Outcome.AHEAD),
        (409, "text/plain", b"5\n", Outcome.INVALID),
        (409, size, b"05\n", Outcome.INVALID),
        (409, size, b"5", Outcome.INVALID),
        (403, "", b"no\x1b[31m", Outcome.REFUSED),
        (422, "", b"no", Outcome.REFUSED),
        (301, "", b"", Outcome.REFUSED),
        (503, "", b"", Outcome.UNREACHABLE),
    ]
    current = 0

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, content_type, body, _ = answers[current]
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        client = WitnessClient(WitnessEndpoint("w", url, known.key))
        for current, (*_, outcome) in enumerate(answers):
            answer = client.ask(0, [], small)
            assert answer.outcome is outcome, (answers[current], answer)
        server.shutdown()
        thread.join()
    gone = client.ask(0, [], small)
    assert gone.outcome is Outcome.UNREACHABLE
    client.close()
