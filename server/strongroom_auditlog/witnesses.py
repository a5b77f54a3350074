"""Gets checkpoints cosigned by enough witnesses, each asked once a second at most.

All witnesses that may be asked are asked at once. When the quorum is there, the others
have GRACE_SECONDS more; what comes later is not in this checkpoint. A witness that hangs
or is away is asked again when its last request has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import structlog

from strongroom.tlog.checkpoint import Checkpoint
from strongroom.tlog.cosignature import Cosignature
from strongroom_auditlog.metrics import WitnessMetrics
from strongroom_auditlog.witness_client import Answer, Outcome, WitnessClient

__all__ = ["Witnesses"]

GRACE_SECONDS: Final = 0.2
ROUND_SECONDS: Final = 8.0  # a request, a second, and a request with the right size

Prove = Callable[[int, int], list[bytes]]
"""Consistency proof between two sizes of the log; reads files."""

_log = structlog.stdlib.get_logger("strongroom.auditlog.witnesses")


class _Witness:
    """What is known of one witness."""

    def __init__(self, client: WitnessClient, size: int):
        self.client = client
        self.name = client.endpoint.name
        self.size = size  # that it knows, as far as we know
        self.may_ask_at = 0.0
        self.request: asyncio.Task[Answer] | None = None
        self.trouble: str | None = None

    @property
    def is_busy(self) -> bool:
        return self.request is not None and not self.request.done()


class Witnesses:
    """The witnesses of one log. Owned by one event loop."""

    def __init__(
        self,
        clients: Sequence[WitnessClient],
        *,
        quorum: int,
        interval_seconds: float,
        metrics: WitnessMetrics,
        published: Checkpoint,
    ):
        """Take what is needed.

        Args:
            clients: At least one.
            quorum: How many must cosign; 0 takes what comes in time.
            interval_seconds: Between two requests to the same witness.
            metrics: Of these witnesses.
            published: The last published checkpoint: who cosigned it knows its size.
        """
        known = published.text
        self._witnesses = [
            _Witness(client, published.size if f" {client.endpoint.key.name} " in known else 0)
            for client in clients
        ]
        self._quorum = quorum
        self._interval = interval_seconds
        self._metrics = metrics
        self._next_round_at = 0.0
        self._executor = ThreadPoolExecutor(len(clients), thread_name_prefix="witness")
        self.failing: str | None = None
        """Why the newest checkpoint has no quorum; None when it has."""

    async def due(self) -> None:
        """Wait until a round may begin: a second after the last, and a quorum may be asked."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._next_round_at - loop.time())
        while True:
            waits = sorted(w.may_ask_at for w in self._witnesses if not w.is_busy)
            if len(waits) >= self._quorum:
                at = waits[self._quorum - 1] if self._quorum else 0.0
                await asyncio.sleep(at - loop.time())
                return
            busy = [w.request for w in self._witnesses if w.request is not None and w.is_busy]
            await asyncio.wait(busy, return_when=asyncio.FIRST_COMPLETED)

    async def cosign(self, signed: Checkpoint, *, prove: Prove) -> Checkpoint | None:
        """Have `signed` cosigned.

        Returns:
            The checkpoint with the cosignatures; None when the quorum was not reached,
            for the reasons in `failing`.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._next_round_at = began + self._interval
        asked = [w for w in self._witnesses if not w.is_busy and w.may_ask_at <= began]
        for witness in asked:
            witness.request = asyncio.create_task(
                self._ask(witness, signed, prove), name=f"witness {witness.name}"
            )
        cosignatures = await self._gather(asked, until=began + ROUND_SECONDS)
        self._metrics.cosigned(len(cosignatures), enough=len(cosignatures) >= self._quorum)
        if len(cosignatures) < self._quorum:
            troubles = [f"{w.name}: {w.trouble or 'no answer yet'}" for w in self._witnesses]
            self.failing = (
                f"{len(cosignatures)} of {self._quorum} required cosignatures; "
                + "; ".join(trouble for trouble in troubles)
            )
            return None
        self.failing = None
        text = signed.text + "".join(cosignature.line for cosignature in cosignatures)
        return Checkpoint(signed.origin, signed.size, signed.root, text, tuple(cosignatures))

    async def close(self) -> None:
        """Break off what is under way."""
        for witness in self._witnesses:
            if witness.request is not None:
                witness.request.cancel()
            # A connection that is being made is waited for, so not on the event loop.
            await asyncio.to_thread(witness.client.close)
        self._executor.shutdown(wait=False)

    async def _gather(self, asked: Sequence[_Witness], *, until: float) -> list[Cosignature]:
        """Wait for the quorum, and then a moment for the rest."""
        loop = asyncio.get_running_loop()
        running = {w.request for w in asked if w.request is not None}
        found: list[Cosignature] = []
        while running and loop.time() < until:
            if len(found) >= self._quorum:
                until = min(until, loop.time() + GRACE_SECONDS)
            done, running = await asyncio.wait(
                running, timeout=until - loop.time(), return_when=asyncio.FIRST_COMPLETED
            )
            answers = [task.result() for task in done]
            found += [a.cosignature for a in answers if a.cosignature is not None]
        return found

    async def _ask(self, witness: _Witness, signed: Checkpoint, prove: Prove) -> Answer:
        """Ask once, and once more when the witness knows another size than we thought."""
        answer = await self._ask_once(witness, signed, prove)
        if answer.outcome is Outcome.CONFLICT:
            await asyncio.sleep(witness.may_ask_at - asyncio.get_running_loop().time())
            answer = await self._ask_once(witness, signed, prove)
        trouble = None if answer.outcome is Outcome.COSIGNED else answer.detail
        if trouble is not None and trouble != witness.trouble:
            _log.warning(
                "a witness does not cosign",
                witness=witness.name,
                outcome=answer.outcome.value,
                reason=trouble,
                tree_size=signed.size,
            )
        witness.trouble = trouble
        return answer

    async def _ask_once(self, witness: _Witness, signed: Checkpoint, prove: Prove) -> Answer:
        loop = asyncio.get_running_loop()
        witness.may_ask_at = loop.time() + self._interval
        # A size that we do not have cannot be proved from; 0 brings the size it really has.
        old = witness.size if witness.size <= signed.size else 0

        def ask() -> Answer:
            proof = prove(old, signed.size) if 0 < old < signed.size else []
            return witness.client.ask(old, proof, signed)

        answer = await loop.run_in_executor(self._executor, ask)
        self._metrics.request(witness.name, answer.outcome)
        if answer.size is not None:
            witness.size = answer.size
        return answer
