"""How a session pool starts, what it refuses to start with, and how it ends."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import psutil
import pytest
from tests.support.hsm_load import AAD, create_key, in_seconds
from tests.support.pkcs11_shim import Shim
from tests.support.softhsm import (
    RecordingObserver,
    SystemClock,
    TestToken,
    running_pool,
    wait_until,
)

from strongroom_server.errors import (
    HsmUnavailableError,
    StartRefusedError,
)
from strongroom_server.hsm.pool import SessionPool

pytestmark = pytest.mark.hsm


async def test_close_drains(token: TestToken) -> None:
    """Closing answers what is under way, refuses what comes, and leaves no process."""
    pool = SessionPool("eu-test", token.settings, SystemClock())
    await pool.start()
    ref = await create_key(pool)
    calls = [
        asyncio.create_task(pool.encrypt(ref, b"x", AAD, deadline=in_seconds())) for _ in range(300)
    ]
    await asyncio.sleep(0)
    await pool.close(5.0)
    assert all(isinstance(result, bytes) for result in await asyncio.gather(*calls))
    assert not pool.ready
    with pytest.raises(HsmUnavailableError, match="stopping"):
        await pool.encrypt(ref, b"x", AAD, deadline=in_seconds())


async def test_wrong_pin_is_tried_once(token: TestToken, shim: Shim) -> None:
    """A wrong PIN stops the start after exactly one login, and the PIN is not in the error (H6)."""
    token.settings.pin_file.write_text("not-the-pin\n")
    observer = RecordingObserver()
    pool = SessionPool("eu-test", shim.wrap(token.settings), SystemClock(), observer)
    with pytest.raises(StartRefusedError, match="login refused") as refusal:
        await pool.start()
    assert "not-the-pin" not in str(refusal.value)
    assert shim.logins == 1
    assert [category for category, _ in observer.alarms] == ["pin_refused"]
    with pytest.raises(StartRefusedError):
        await pool.start()
    assert shim.logins == 1
    assert pool.status().stopped
    await pool.close(0)


async def test_last_try_of_a_pin_is_left_to_a_person(token: TestToken, shim: Shim) -> None:
    """When one more failure would lock the token, the login is not even tried."""
    shim.always("C_GetTokenInfo", "final-try")
    pool = SessionPool("eu-test", shim.wrap(token.settings), SystemClock())
    with pytest.raises(StartRefusedError, match="one try left"):
        await pool.start()
    assert shim.logins == 0


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (b"", 0o600, "expected one line"),
        (b"\n", 0o600, "expected one line"),
        (b"one\ntwo\n", 0o600, "expected one line"),
        (b"x" * 256, 0o600, "expected one line"),
        (b"\xff\xfe\xfd\xfc", 0o600, "not UTF-8"),
        (b"12345678", 0o644, "lets others in"),
        (b"12345678", 0o606, "lets others in"),
        (b"12345678", 0o620, "lets others in"),
    ],
)
async def test_bad_pin_file_stops_the_start(
    token: TestToken, content: bytes, mode: int, message: str, shim: Shim
) -> None:
    """A PIN file that is empty, ambiguous or open to others is refused before any login."""
    token.settings.pin_file.write_bytes(content)
    token.settings.pin_file.chmod(mode)
    pool = SessionPool("eu-test", shim.wrap(token.settings), SystemClock())
    with pytest.raises(StartRefusedError, match=message):
        await pool.start()
    assert shim.logins == 0


async def test_missing_parts_stop_the_start(token: TestToken, tmp_path: Path) -> None:
    """No module, no PIN file, no such token: each refused with what to check."""
    for changes, message in (
        ({"module": tmp_path / "none.so"}, "none.so.*check module"),
        ({"pin_file": tmp_path / "none"}, "none.*pin_file must hold"),
        ({"token_label": "another"}, "another.*check token_label"),
        ({"module_environment": {"SOFTHSM2_CONF": "/none"}}, "check|failed"),
    ):
        pool = SessionPool("eu-test", token.with_settings(**changes), SystemClock())
        with pytest.raises(StartRefusedError, match=f"(?s){message}"):
            await pool.start()


async def test_nothing_secret_in_the_open(token: TestToken) -> None:
    """The PIN shows neither in arguments nor in the environment of any worker."""
    async with running_pool(token.settings) as pool:
        for pid in pool.status().pids:
            assert token.pin not in " ".join(psutil.Process(pid).cmdline())
        environments = [dict(os.environ), dict(token.settings.module_environment)]
        assert token.pin not in str(environments)
        assert token.pin not in repr(token.settings)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_workers_end_with_their_parent(token: TestToken) -> None:
    """When the server is killed, its workers end at once."""
    program = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from strongroom_server.hsm.pool import SessionPool, SessionPoolSettings\n"
        "from tests.support.softhsm import SystemClock\n"
        "async def main():\n"
        "    settings = SessionPoolSettings(module=Path(sys.argv[1]), token_label=sys.argv[2],\n"
        "        pin_file=Path(sys.argv[3]), module_environment={'SOFTHSM2_CONF': sys.argv[4]})\n"
        "    pool = SessionPool('eu-test', settings, SystemClock())\n"
        "    await pool.start()\n"
        "    sys.stdout.write(' '.join(map(str, pool.status().pids)) + '\\n')\n"
        "    sys.stdout.flush()\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        str(token.settings.module),
        token.settings.token_label,
        str(token.settings.pin_file),
        token.settings.module_environment["SOFTHSM2_CONF"],
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert server.stdout is not None
    pids = [int(pid) for pid in (await server.stdout.readline()).split()]
    assert len(pids) == 2
    server.kill()
    await server.wait()

    def gone() -> bool:
        # Their new parent may be slow to reap them: a zombie has ended.
        for pid in pids:
            status = Path(f"/proc/{pid}/stat")
            try:
                if status.read_text().rpartition(")")[2].split()[0] != "Z":
                    return False
            except (FileNotFoundError, ProcessLookupError):
                continue
        return True

    await wait_until(gone, 5)
