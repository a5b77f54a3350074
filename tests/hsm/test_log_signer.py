"""The audit log's key on a SoftHSM token: made, found, used, and never seen."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from cryptography.exceptions import InvalidSignature
from tests.support.audit_certificates import CertificateAuthority
from tests.support.audit_process import AuditLogProcess
from tests.support.audit_records import LogHome, batch
from tests.support.audit_shard import Shard
from tests.support.softhsm import TestToken, make_token

from strongroom_auditlog import hsm_key as module
from strongroom_auditlog.checkpoint import Signer
from strongroom_auditlog.errors import LogError, SigningStoppedError, StartRefusedError
from strongroom_auditlog.hsm_key import HsmKey, HsmKeySettings
from strongroom_auditlog.log import AuditLog
from strongroom_auditlog.opening import create_log
from strongroom_auditlog.verify import verify_log

pytestmark = [pytest.mark.hsm, pytest.mark.usefixtures("softhsm")]


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> TestToken:
    """Give a token for all tests that leave it as it is."""
    return make_token(tmp_path_factory.mktemp("token"))


def settings_of(token: TestToken, **changes: object) -> HsmKeySettings:
    """Return the settings for a token."""
    settings = HsmKeySettings(
        module=token.settings.module,
        token_label=token.settings.token_label,
        pin_file=token.settings.pin_file,
        key_label="audit-log",
        module_environment=token.settings.module_environment,
    )
    return replace(settings, **changes)  # type: ignore[arg-type]  # checked by the dataclass


@pytest.fixture
def key(token: TestToken) -> Iterator[HsmKey]:
    """Give the open key, made by the first test that wants it."""
    opened = HsmKey.open(settings_of(token), create=True)
    yield opened
    opened.close()


def pid_of(key: HsmKey) -> int:
    """Return the process that holds the key."""
    assert key._process is not None
    return key._process.pid


def runs(pid: int) -> bool:
    """Whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_key_is_made_once_and_found_afterwards(key: HsmKey, token: TestToken) -> None:
    """What the token signs verifies with the public key that it shows, the same each time."""
    public_key = key.public_key()
    public_key.verify(key.sign(b"a message"), b"a message")
    with pytest.raises(InvalidSignature):
        public_key.verify(key.sign(b"a message"), b"another")
    again = HsmKey.open(settings_of(token), create=True)
    assert again.public_key() == public_key
    assert again.sign(b"a message") == key.sign(b"a message")
    again.close()


def test_the_key_cannot_leave_the_token(key: HsmKey, token: TestToken) -> None:
    """SENSITIVE, not EXTRACTABLE, for signing alone; and its bytes are in no process of ours."""
    del key
    script = (
        "import json, sys\n"
        "from strongroom_server.hsm.token import TokenSession\n"
        "pin = open(sys.argv[3]).read().strip()\n"
        "session = TokenSession.open(sys.argv[1], sys.argv[2], pin)\n"
        "[handle] = session.find({'CLASS': 3, 'LABEL': 'audit-log'})\n"
        "names = ['SENSITIVE', 'EXTRACTABLE', 'SIGN', 'DECRYPT', 'UNWRAP', 'DERIVE', 'LOCAL',"
        " 'NEVER_EXTRACTABLE', 'MODIFIABLE', 'VALUE', 'PRIVATE']\n"
        "print(json.dumps(session.attributes(handle, names)))\n"
    )
    import json  # noqa: PLC0415 - beside its one use
    import subprocess  # noqa: PLC0415
    import sys  # noqa: PLC0415

    settings = settings_of(token)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            script,
            str(settings.module),
            settings.token_label,
            str(settings.pin_file),
        ],
        env={**os.environ, **settings.module_environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert json.loads(done.stdout) == {
        "SENSITIVE": True,
        "EXTRACTABLE": False,
        "SIGN": True,
        "DECRYPT": False,
        "UNWRAP": False,
        "DERIVE": False,
        "LOCAL": True,
        "NEVER_EXTRACTABLE": True,
        "MODIFIABLE": False,
        "PRIVATE": True,
    }


def test_a_log_is_made_and_grows_with_it(key: HsmKey, tmp_path: Path) -> None:
    """Checkpoints signed in the token are checkpoints like any other."""
    home = LogHome(tmp_path / "home", Signer("audit.example.org/hsm", key))
    home.root.mkdir()
    create_log(home.directory, home.state_file, home.last_checkpoint_file, home.signer)
    home.fill(batch("eu-1", 5, range(1, 301)), batch("eu-1", 5, range(301, 303)))
    assert verify_log(home.directory, home.key).checkpoint.size == 302


def test_a_signature_takes_milliseconds(key: HsmKey, figures) -> None:
    """The token is asked once a checkpoint: that must not show beside the fsyncs."""
    took = []
    for number in range(200):
        began = time.perf_counter()
        key.sign(b"%d" % number)
        took.append(time.perf_counter() - began)
    figures(sign_p50_ms=sorted(took)[100] * 1e3, sign_p99_ms=sorted(took)[198] * 1e3)
    assert sorted(took)[100] < 0.05


def test_a_killed_process_is_replaced(key: HsmKey) -> None:
    """The caller gets its signature, a little later, from another process."""
    public_key = key.public_key()
    for _ in range(2):
        old = pid_of(key)
        os.kill(old, signal.SIGKILL)
        public_key.verify(key.sign(b"x"), b"x")
        assert pid_of(key) != old
    assert key.restarts == 2
    key.sign(b"y")


def test_a_hanging_process_is_replaced(key: HsmKey, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up after ANSWER_SECONDS and killed; nothing is left behind."""
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.3)
    hung = pid_of(key)
    os.kill(hung, signal.SIGSTOP)
    key.public_key().verify(key.sign(b"x"), b"x")
    assert not runs(hung)


def test_nothing_is_left_after_close(token: TestToken) -> None:
    """The process ends with its socket."""
    key = HsmKey.open(settings_of(token), create=True)
    pid = pid_of(key)
    key.close()
    assert not runs(pid)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key_label": "absent"}, "no key 'absent'"),
        ({"token_label": "absent"}, "no initialised tokens"),
        ({"module": Path("/nonexistent.so")}, "nonexistent"),
        ({"pin_file": Path("/nonexistent/pin")}, "No such file"),
    ],
)
def test_what_is_missing_is_named(
    token: TestToken, changes: dict[str, object], message: str
) -> None:
    """Key, token, module and PIN file: each refuses the start in words."""
    with pytest.raises(StartRefusedError, match=message):
        HsmKey.open(settings_of(token, **changes))


def test_a_refused_pin_is_tried_once_and_never_shown(tmp_path: Path) -> None:
    """At a start, and at a restart under way: no second login, no PIN in the message."""
    token = make_token(tmp_path / "token")
    right = token.settings.pin_file.read_text()
    key = HsmKey.open(settings_of(token), create=True)
    token.settings.pin_file.write_text("wrong-pin-12345\n")
    with pytest.raises(StartRefusedError, match="login refused") as caught:
        HsmKey.open(settings_of(token))
    assert "wrong-pin" not in str(caught.value)
    os.kill(pid_of(key), signal.SIGKILL)
    for _ in range(5):
        with pytest.raises(SigningStoppedError, match="login refused"):
            key.sign(b"x")
    key.close()
    token.settings.pin_file.write_text(right)
    HsmKey.open(settings_of(token)).close()  # two wrong ones in all: not locked


def test_a_token_that_is_gone_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is away the log cannot publish and says so; when it is back it goes on."""
    monkeypatch.setattr(module, "SIGN_SECONDS", 1.0)
    token = make_token(tmp_path / "token")
    key = HsmKey.open(settings_of(token), create=True)
    home = LogHome(tmp_path / "home", Signer("audit.example.org/hsm", key))
    home.root.mkdir()
    create_log(home.directory, home.state_file, home.last_checkpoint_file, home.signer)
    log: AuditLog = home.open()
    away = token.tokens.rename(token.directory / "away")
    token.tokens.mkdir()
    os.kill(pid_of(key), signal.SIGKILL)
    log.extend([batch("eu-1", 5, range(1, 11))])
    with pytest.raises(LogError, match="does not sign"):
        log.sign()
    assert log.checkpoint.size == 0
    token.tokens.rmdir()
    away.rename(token.tokens)
    deadline = time.monotonic() + 20
    while True:
        try:
            log.publish(log.sign())
            break
        except LogError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    log.close()
    key.close()
    assert verify_log(home.directory, home.key).checkpoint.size == 10


def test_another_key_under_the_same_name_stops_the_log(
    tmp_path: Path,
) -> None:
    """A token that was exchanged must not sign under the old verifier key."""
    first, second = make_token(tmp_path / "first"), make_token(tmp_path / "second")
    HsmKey.open(settings_of(second), create=True).close()
    key = HsmKey.open(settings_of(first), create=True)
    first.tokens.rename(first.directory / "away")
    second.tokens.rename(first.tokens)
    first.settings.pin_file.write_text(second.settings.pin_file.read_text())
    os.kill(pid_of(key), signal.SIGKILL)
    with pytest.raises(SigningStoppedError, match="another one than at the start"):
        key.sign(b"x")
    key.close()


@pytest.mark.integration
async def test_the_process_goes_on_when_its_signer_is_killed(tmp_path: Path) -> None:
    """kill -9 of the signer under ingestion: a new one, nothing lost, one login each."""
    token = make_token(tmp_path / "token")
    environment = ", ".join(
        f'{name} = "{value}"' for name, value in token.settings.module_environment.items()
    )
    authority = CertificateAuthority.create(tmp_path / "tls")
    shard = Shard()
    port = await shard.start(authority, authority.issue("server"))
    process = AuditLogProcess.create(
        tmp_path / "home",
        authority.issue("audit-log"),
        {"eu-1": port},
        log=(),
        more=(
            "[log.hsm]",
            f'module = "{token.settings.module}"',
            f"module_environment = {{ {environment} }}",
            f'token_label = "{token.settings.token_label}"',
            f'pin_file = "{token.settings.pin_file}"',
        ),
    )
    try:
        await process.start()
        assert process.process is not None
        for total in (100, 200, 300):
            shard.add(100)
            async with asyncio.timeout(30):
                while shard.acknowledged < total:  # noqa: ASYNC110 - it happens in another process
                    await asyncio.sleep(0.01)
            children = psutil.Process(process.process.pid).children()
            [signer] = [child for child in children if "log_signer" in " ".join(child.cmdline())]
            signer.kill()
        assert await process.stop() == 0
        assert not signer.is_running()
        assert verify_log(process.config.log.directory, process.key).checkpoint.size == 300
        pin = token.pin.encode()
        assert pin not in process.log_lines.read_bytes()
    finally:
        await process.kill()
        await shard.stop()
