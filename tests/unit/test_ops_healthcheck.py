"""The health check of the image: exit status by readiness, and where it asks."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from strongroom.ops_http import OpsServer, ReadinessCheck, build_ops_app
from strongroom_server.config import OpsConfig
from strongroom_server.errors import StartRefusedError
from strongroom_server.ops import healthcheck
from strongroom_server.ops.health import build_ops_server
from strongroom_server.ops.metrics import Metrics


async def run_against(checks: dict[str, ReadinessCheck], *, by_variable: bool) -> tuple[int, str]:
    """Run the module as the image does, against a real port."""
    ops = OpsServer(listen="127.0.0.1:0", app=build_ops_app(exposition=bytes, checks=checks))
    await ops.start()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "strongroom_server.ops.healthcheck",
            *([] if by_variable else [ops.address]),
            env=os.environ | ({healthcheck.VARIABLE: ops.address} if by_variable else {}),
            stderr=subprocess.PIPE,
        )
        _, errors = await asyncio.wait_for(process.communicate(), timeout=30)
        assert process.returncode is not None
        return process.returncode, errors.decode()
    finally:
        await ops.stop()


@pytest.mark.parametrize("by_variable", [True, False])
async def test_ready_is_exit_0(by_variable: bool) -> None:  # noqa: FBT001 - a parameter
    """A ready process is healthy, asked at the argument or where the variable says."""
    assert await run_against({"hsm": lambda: None}, by_variable=by_variable) == (0, "")


async def test_not_ready_is_exit_1_with_the_reason() -> None:
    """A process that is not ready is unhealthy, and the reason is printed."""
    status, errors = await run_against({"hsm": lambda: "no session answers"}, by_variable=False)
    assert status == 1
    assert "[-] hsm: no session answers" in errors


@pytest.mark.parametrize("address", ["127.0.0.1:1", "not an address:x", "[::1"])
def test_nobody_there_is_exit_1(address: str) -> None:
    """Neither a closed port nor a bad address is taken for health."""
    output = io.StringIO()
    assert healthcheck.main([address], {}, output) == 1
    assert output.getvalue().startswith(f"{address}: ")


def test_the_default_address_is_the_configuration_s() -> None:
    """The health check asks where a server listens that was told nothing else."""
    assert OpsConfig().listen == healthcheck.DEFAULT_ADDRESS


async def test_a_taken_ops_port_refuses_the_start() -> None:
    """The message names the setting and the address."""
    metrics = Metrics(
        regions=[], services=[], operations=[], version="x", start_time=datetime.now(UTC)
    )
    first = build_ops_server(listen="127.0.0.1:0", metrics=metrics, checks={})
    try:
        with pytest.raises(StartRefusedError, match=r"\[ops\] listen 127\.0\.0\.1:\d+: .*in use"):
            build_ops_server(listen=first.address, metrics=metrics, checks={})
    finally:
        await first.stop()
