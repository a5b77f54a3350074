"""How much one principal may ask for: token buckets, several windows at once.

A rate such as ``20/second`` is a bucket of 20 tokens that refills at 20 a second; a limit
is a list of rates, all of which must have tokens. The generic cell rate algorithm (ITU-T
I.371, annex A) keeps a bucket in a single integer, the moment at which it is full again,
in units of ``1/count`` nanoseconds: so every step is exact.

A day's bucket may be emptied at once and refills while it is used: within 24 hours at most
twice the count passes.

Three bounds hold the memory: on the principals, on the keys of one principal (one who uses
many keys forgets its own, nobody else's), and on the keys of all. What is forgotten starts
full; it is what was not asked for longest, and so the fullest.
"""

from __future__ import annotations

import enum
import re
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from strongroom_server.errors import QuotaExceededError

__all__ = ["LimitName", "Limits", "PrincipalLimits", "Rate", "limit_of", "parse_rate"]

MAX_PRINCIPALS: Final = 10_000
MAX_KEYS_PER_PRINCIPAL: Final = 1_000
MAX_KEYS: Final = 100_000
MAX_COUNT: Final = 10**12

_SECOND_NS: Final = 10**9
_PERIODS_NS: Final = {
    "second": _SECOND_NS,
    "minute": 60 * _SECOND_NS,
    "hour": 3_600 * _SECOND_NS,
    "day": 86_400 * _SECOND_NS,
}
_RATE: Final = re.compile(r"([1-9][0-9_]{0,15})/(second|minute|hour|day)")


class LimitName(enum.StrEnum):
    """What is limited; the names of ``[limits]``, of the metric and of ErrorInfo."""

    DATA = "data"  # uses of keys
    CONTROL = "control"  # reads and changes of keys as resources
    CREATE = "create"  # what makes material or key pairs, the HSM's slowest work
    KEY = "key"  # uses of one key


_CREATE: Final = frozenset(
    {
        "CreateKey",
        "GenerateDataKeyPair",
        "GenerateDataKeyPairWithoutPlaintext",
        "GetImportParameters",
        "ImportKeyMaterial",
        "ReplicateKey",
        "RotateKey",
    }
)
_DATA: Final = frozenset(
    {
        "Decrypt",
        "DeriveSharedSecret",
        "Encrypt",
        "GenerateDataKey",
        "GenerateDataKeyWithoutPlaintext",
        "GenerateMac",
        "GenerateRandom",
        "ReEncrypt",
        "Sign",
        "Verify",
        "VerifyMac",
    }
)
# What the audit log fetches must never wait behind a quota: a spool that fills stops all.
_FREE: Final = frozenset({"AcknowledgeRecords", "GetSpoolStatus", "StreamRecords"})
_COSTS: Final = {"ReEncrypt": 2}  # two uses, as the audit log has it


def limit_of(method: str) -> tuple[LimitName, int] | None:
    """Return which limit a method counts against, and for how much; None for none."""
    if method in _FREE:
        return None
    name = LimitName.CONTROL
    if method in _DATA:
        name = LimitName.DATA
    elif method in _CREATE:
        name = LimitName.CREATE
    return name, _COSTS.get(method, 1)


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` in `period_ns`, all of them at once if need be."""

    count: int
    period_ns: int
    text: str


def parse_rate(text: str) -> Rate:
    """Parse ``COUNT/second``, ``/minute``, ``/hour`` or ``/day``, COUNT from 1 to 10^12.

    Raises:
        ValueError: It is none; the message says what is expected.
    """
    match = _RATE.fullmatch(text)
    if match is None or int(match[1]) > MAX_COUNT:
        raise ValueError("expected COUNT/second, /minute, /hour or /day, such as 20/second")
    return Rate(int(match[1]), _PERIODS_NS[match[2]], text)


class Buckets:
    """The buckets of one limit, one for each rate."""

    __slots__ = ("_full_at", "_rates")

    def __init__(self, rates: Sequence[Rate]) -> None:
        """Start full."""
        self._rates = rates
        self._full_at = [0] * len(rates)

    def take(self, cost: int, now_ns: int) -> tuple[Rate, int] | None:
        """Take `cost` tokens from every bucket, or from none.

        A cost above a rate's count is taken as that count: it must be possible some time.

        Returns:
            None when they were taken; else the rate that makes wait longest, and for how
            many nanoseconds, 1 or more.
        """
        lacking: tuple[Rate, int] | None = None
        after: list[int] = []
        for rate in self._rates:
            count, period_ns = rate.count, rate.period_ns
            now = now_ns * count
            level = self._full_at[len(after)]
            level = max(level, now)
            level += (min(count, cost)) * period_ns
            excess = level - now - count * period_ns
            if excess > 0:
                wait_ns = -(-excess // count)
                if lacking is None or wait_ns > lacking[1]:
                    lacking = rate, wait_ns
            after.append(level)
        if lacking is None:
            self._full_at = after
        return lacking


PrincipalLimits = Mapping[LimitName, tuple[Rate, ...]]
"""The limits of one principal; what is not there, or empty, is not limited."""


@dataclass(slots=True)
class _Account:
    limits: PrincipalLimits
    buckets: dict[LimitName, Buckets] = field(default_factory=dict)
    keys: OrderedDict[uuid.UUID, Buckets] = field(default_factory=OrderedDict)


class Limits:
    """What every principal has left. One instance per server process.

    Thread safety: none.
    """

    def __init__(
        self, defaults: PrincipalLimits, overrides: Mapping[str, PrincipalLimits] | None = None
    ) -> None:
        """Take the limits.

        Args:
            defaults: Of every principal.
            overrides: By principal; what one does not name is as in `defaults`.
        """
        self._defaults = defaults
        self._overrides = {
            principal: {**defaults, **limits} for principal, limits in (overrides or {}).items()
        }
        self._accounts: OrderedDict[str, _Account] = OrderedDict()
        self._keys = 0

    def take(self, principal: str, name: LimitName, cost: int, now_ns: int) -> None:
        """Count a call.

        Args:
            principal: Who calls.
            name: Which limit; not KEY.
            cost: 1 or more.
            now_ns: A clock that never goes back, in nanoseconds.

        Raises:
            QuotaExceededError: It is over the limit, and not counted.
        """
        account = self._account(principal)
        buckets = account.buckets.get(name)
        if buckets is None:
            buckets = account.buckets[name] = Buckets(account.limits.get(name, ()))
        _take(buckets, name, cost, now_ns)

    def take_key(self, principal: str, key_id: uuid.UUID, cost: int, now_ns: int) -> None:
        """Count a use of a key.

        Raises:
            QuotaExceededError: It is over the limit, and not counted.
        """
        account = self._account(principal)
        rates = account.limits.get(LimitName.KEY, ())
        if not rates:
            return
        buckets = account.keys.get(key_id)
        if buckets is None:
            buckets = account.keys[key_id] = Buckets(rates)
            self._keys += 1
            if len(account.keys) > MAX_KEYS_PER_PRINCIPAL:
                account.keys.popitem(last=False)
                self._keys -= 1
            while self._keys > MAX_KEYS:
                self._forget_one()
        else:
            account.keys.move_to_end(key_id)
        _take(buckets, LimitName.KEY, cost, now_ns)

    def _account(self, principal: str) -> _Account:
        account = self._accounts.get(principal)
        if account is None:
            limits = self._overrides.get(principal, self._defaults)
            account = self._accounts[principal] = _Account(limits)
            if len(self._accounts) > MAX_PRINCIPALS:
                self._forget_one()
        else:
            self._accounts.move_to_end(principal)
        return account

    def _forget_one(self) -> None:
        """Forget the principal that asked longest ago; never the one that asks now."""
        _, forgotten = self._accounts.popitem(last=False)
        self._keys -= len(forgotten.keys)


def _take(buckets: Buckets, name: LimitName, cost: int, now_ns: int) -> None:
    lacking = buckets.take(cost, now_ns)
    if lacking is not None:
        rate, wait_ns = lacking
        raise QuotaExceededError(name, rate.text, retry_after_seconds=wait_ns / 1e9)
