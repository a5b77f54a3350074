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
            mechanism: ``encrypt``, ``decrypt``, ``reencrypt``, ``data_key``,
                ``sealed_data_key``, ``random``, ``create``, ``load`` or ``ping``.
            seconds: Time in the worker, without waiting; 0 when it never ended there.
            category: ``ok``, ``tampered``, ``key_absent``, ``policy``, ``deadline``,
                ``fault`` or ``overloaded``.
        """
        ...

    def worker_started(self, pid: int, seconds: float) -> None:
        """Hear that a worker serves, and how long its start took."""
        ...

    def worker_lost(self, pid: int, reason: str) -> None:
        """Hear that a worker ended or did not come up."""
        ...

    def alarm(self, category: str, text: str) -> None:
        """Hear of something that a person must look at.

        Args:
            category: ``pin_refused`` (no worker is started any more), ``key_absent`` or
                ``policy``.
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

    def alarm(self, category: str, text: str) -> None:
        """Do nothing."""
