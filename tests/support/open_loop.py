"""Calls at a fixed rate, whether the answers come or not, from a process of their own.

    python -m tests.support.open_loop ADDRESS CERT KEY CA NAME RATE SECONDS DEADLINE

NAME is the key to encrypt with. Prints what happened as one line of JSON; see `Outcome`.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import grpc
from tests.support.wire import send_async

from strongroom.kms.v1 import key_service_pb2 as rpc
from strongroom_client import StrongroomError, TlsFiles
from strongroom_client._transport import CHANNEL_OPTIONS, channel_credentials

__all__ = ["OpenLoop", "Outcome", "start_open_loop"]

TICK_SECONDS = 0.005


@dataclass
class Outcome:
    """How long answers and refusals took, in seconds, and why calls were refused."""

    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    reasons: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """Answers per second."""
        return len(self.answered) / self.seconds

    def percentile(self, share: float) -> float:
        """Return a percentile of the answers."""
        return _percentile(self.answered, share)

    def refused_percentile(self, share: float) -> float:
        """Return a percentile of the refusals; 0 when there are none."""
        return _percentile(self.refused, share)


def _percentile(seconds: list[float], share: float) -> float:
    return sorted(seconds)[int(len(seconds) * share)] if seconds else 0.0


class OpenLoop:
    """A run in its own process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def outcome(self) -> Outcome:
        """Wait for the end of the run."""
        output, _ = await self._process.communicate()
        assert self._process.returncode == 0
        return Outcome(**json.loads(output))


async def start_open_loop(
    address: str, tls: TlsFiles, key: str, *, rate: float, seconds: float, deadline: float
) -> OpenLoop:
    """Start to call."""
    arguments = [address, tls.certificate_file, tls.private_key_file, tls.ca_file, key]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.open_loop",
        *map(str, arguments),
        *map(str, (rate, seconds, deadline)),
        stdout=subprocess.PIPE,
    )
    return OpenLoop(process)


async def _run(
    address: str, tls: TlsFiles, key: str, *, rate: float, seconds: float, deadline: float
) -> Outcome:
    outcome = Outcome()
    request = rpc.EncryptRequest(key=key, plaintext=b"x")
    credentials = channel_credentials(tls)
    options = [*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
    # 256 calls at once on a connection: a flood brings several.
    channels = [
        grpc.aio.secure_channel(address, credentials, options=options)
        for _ in range(1 + int(rate * deadline) // 256)
    ]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))

    async def call(number: int) -> None:
        began = time.monotonic()
        channel = channels[number % len(channels)]
        try:
            await send_async(channel, "Encrypt", request, seconds=deadline)
        except StrongroomError as error:
            outcome.refused.append(time.monotonic() - began)
            outcome.reasons[error.reason] = outcome.reasons.get(error.reason, 0) + 1
        else:
            outcome.answered.append(time.monotonic() - began)

    began = time.monotonic()
    tasks: list[asyncio.Task[None]] = []
    while (passed := time.monotonic() - began) < seconds:
        due = int(passed * rate) - len(tasks)
        tasks += [asyncio.create_task(call(len(tasks) + number)) for number in range(due)]
        await asyncio.sleep(TICK_SECONDS)
    await asyncio.gather(*tasks)
    outcome.seconds = time.monotonic() - began
    for channel in channels:
        await channel.close()
    return outcome


if __name__ == "__main__":
    words = sys.argv[1:]
    made = asyncio.run(
        _run(
            words[0],
            TlsFiles(*map(Path, words[1:4])),
            words[4],
            rate=float(words[5]),
            seconds=float(words[6]),
            deadline=float(words[7]),
        )
    )
    json.dump(asdict(made), sys.stdout)
