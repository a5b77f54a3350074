"""What the session pool tells the world: for metrics, the log, and whoever is on call."""

from __future__ import annotations

from typing import Protocol

__all__ = ["NullObserver", "PoolObserver"]


class PoolObserver(Protocol):
    """Hears from one pool, in its event loop. Must not block or raise.

    Texts are for the log: they hold return codes, labels and paths, no secrets.
    """

    def operation(self, mechanism: str, seconds: float, category: str) -> None:
        """Hear of an operation's end.

        Args:
            mechanism: Lower-case name of a `wire.Operation`: ``encrypt``, ``decrypt``,
                ``reencrypt``, ``data_key``, ``sealed_data_key``, ``random``, ``create``,
                ``load``, ``ping``, ``create_wrapped``, ``create_root``, ``rewrap``,
                ``public_key``, ``sign``, ``sign_digest``, ``verify``, ``verify_digest``,
                ``mac``, ``verify_mac``, ``agree``, ``rsa_encrypt``, ``rsa_decrypt``,
                ``make_transfer_key``, ``destroy_transfer_key``, ``export``, ``import``,
                ``destroy`` or ``import_external``.
            seconds: Time in the worker, without waiting; 0 when it never ended there.
            category: ``ok``, ``tampered``, ``invalid``, ``unsupported``, ``key_absent``,
                ``damaged``, ``policy``, ``deadline``, ``fault`` or ``overloaded``.
        """
        ...

    def worker_started(self, pid: int, seconds: float) -> None:
        """Hear that a worker serves, and how long its start took."""
        ...

    def worker_lost(self, pid: int, reason: str) -> None:
        """Hear that a worker ended or did not come up."""
        ...

    def worker_retired(self, pid: int, reason: str) -> None:
        """Hear that a worker was replaced although it served well, for it was worn."""
        ...

    def breaker(self, state: str) -> None:
        """Hear that the circuit breaker changed: ``closed``, ``open`` or ``half_open``."""
        ...

    def alarm(self, category: str, text: str) -> None:
        """Hear of something that a person must look at.

        Args:
            category: ``pin_refused`` (no worker is started any more), ``key_absent``,
                ``damaged`` (stored material does not unwrap, an object cannot be read or
                used) or ``policy``.
            text: What happened.
        """
        ...


class NullObserver:
    """Hears nothing."""

    def operation(self, mechanism: str, seconds: float, category: str) -> None:
        """Do nothing."""

    def worker_started(self, pid: int, seconds: float) -> None:
        """Do nothing."""

    def worker_lost(self, pid: int, reason: str) -> None:
        """Do nothing."""

    def worker_retired(self, pid: int, reason: str) -> None:
        """Do nothing."""

    def breaker(self, state: str) -> None:
        """Do nothing."""

    def alarm(self, category: str, text: str) -> None:
        """Do nothing."""
