"""`strongroom hsm doctor`: every probe in a child, and what came of it.

A module that crashes or hangs in a probe costs that probe: a new child goes on with the
next one. A refused PIN ends everything, since every further login could lock the token.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from strongroom_server.hsm.errand import (
    CrashedError,
    Errand,
    FailedError,
    HsmTarget,
    SilentError,
)
from strongroom_server.hsm.probes import PROBES, Finding, Outcome, Probe
from strongroom_server.hsm.quirks import QUIRKS, Quirk

__all__ = ["Diagnosis", "Row", "examine"]

_MAX_CHILDREN: Final = 12
_QUIRKS: Final = {quirk.id: quirk for quirk in QUIRKS}


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the report.

    Attributes:
        group: Heading.
        feature: Stable name.
        outcome: works, quirk (works with one) or missing.
        detail: What was seen.
        consequence: What Strongroom will use or refuse.
        quirk: Id of the known quirk that explains it; empty when it works, or when
            nobody has looked at it yet.
        is_needed: The server does not do without it.
        milliseconds: How long the probe took.
    """

    group: str
    feature: str
    outcome: Outcome
    detail: str
    consequence: str
    quirk: str
    is_needed: bool
    milliseconds: float

    @property
    def is_unfit(self) -> bool:
        """Whether the server cannot use the module for this."""
        return self.outcome is Outcome.MISSING and self.is_needed


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The report.

    Attributes:
        rows: In the order of the probes.
        quirks: The known quirks of the module.
        seconds: How long it took.
        left_out: Features that were not asked after, for want of time.
    """

    rows: tuple[Row, ...]
    quirks: tuple[Quirk, ...]
    seconds: float
    left_out: tuple[str, ...]

    @property
    def unfit(self) -> tuple[Row, ...]:
        """What the server needs and the module lacks."""
        return tuple(row for row in self.rows if row.is_unfit)


def examine(
    target: HsmTarget,
    *,
    quick: bool = False,
    write_probes: bool = False,
    probe_seconds: float = 30.0,
    total_seconds: float = 300.0,
    on_row: Callable[[Row], None] | None = None,
) -> Diagnosis:
    """Ask a module everything.

    Args:
        target: The token.
        quick: Leave out what takes long: RSA, speed.
        write_probes: Also make and destroy one token object.
        probe_seconds: A probe that takes longer is given up, and its child killed.
        total_seconds: Nothing more is asked after this.
        on_row: Hears of each row as it comes.

    Raises:
        FailedError: PIN, token or module cannot be used at all.
        CrashedError: The module crashes before the first probe.
        SilentError: The module does not answer before the first probe.
    """
    examination = _Examination(target, quick, write_probes, probe_seconds, on_row)
    began = time.monotonic()
    examination.run(began + total_seconds)
    left_out = [probe.feature for probe in PROBES[examination.next :] if examination.asks(probe)]
    return Diagnosis(
        tuple(examination.rows),
        tuple(_QUIRKS[name] for name in examination.quirks),
        time.monotonic() - began,
        tuple(left_out),
    )


class _Examination:
    """What was asked so far. One thread."""

    def __init__(
        self,
        target: HsmTarget,
        quick: bool,  # noqa: FBT001 - passed on
        write_probes: bool,  # noqa: FBT001
        probe_seconds: float,
        on_row: Callable[[Row], None] | None,
    ):
        self._target = target
        self._quick = quick
        self._write_probes = write_probes
        self._probe_seconds = probe_seconds
        self._on_row = on_row
        self.rows: list[Row] = []
        self.quirks: list[str] = []
        self.next = 0  # index of the probe that is asked next

    def asks(self, probe: Probe) -> bool:
        """Say whether a probe is asked at all."""
        if probe.writes and not self._write_probes:
            return False
        return not (probe.is_slow and self._quick)

    def run(self, end: float) -> None:
        """Send children until everything is asked, or time is up."""
        for _ in range(_MAX_CHILDREN):
            if self.next >= len(PROBES) or time.monotonic() >= end:
                return
            self._send_child(end)

    def _send_child(self, end: float) -> None:
        """Ask from `next` on, until a probe breaks the child."""
        asked: Probe | None = None
        began = time.monotonic()
        with Errand(
            self._target,
            "probe",
            first=self.next,
            quick=self._quick,
            write_probes=self._write_probes,
        ) as errand:
            try:
                for message in errand.messages(silence_seconds=self._probe_seconds):
                    if "facts" in message:
                        self.quirks = message["facts"]["quirks"]
                    elif "begin" in message:
                        asked, began = self._take(message["begin"]), time.monotonic()
                        if began >= end:
                            self.next -= 1
                            return
                    elif asked is not None:
                        outcome, detail, consequence = message["finding"]
                        self._add(asked, Finding(Outcome(outcome), detail, consequence), began)
                        asked = None
                self.next = len(PROBES)
            except FailedError as exc:
                if asked is None or exc.kind == "pin":
                    raise
                self._add(asked, Finding(Outcome.MISSING, str(exc), asked.without), began)
            except (CrashedError, SilentError) as exc:
                if asked is None:
                    raise
                self._add(
                    asked,
                    Finding(Outcome.MISSING, f"the module {_broke(exc)}", asked.without),
                    began,
                )

    def _take(self, feature: str) -> Probe:
        for index in range(self.next, len(PROBES)):
            if PROBES[index].feature == feature:
                self.next = index + 1
                return PROBES[index]
        raise CrashedError(f"the child speaks of a probe that there is not: {feature}")

    def _add(self, probe: Probe, finding: Finding, began: float) -> None:
        explaining = _explain(probe.feature, [_QUIRKS[name] for name in self.quirks])
        row = Row(
            probe.group,
            probe.feature,
            finding.outcome,
            finding.detail,
            finding.consequence,
            "" if finding.outcome is Outcome.WORKS or explaining is None else explaining.id,
            probe.is_needed,
            1000 * (time.monotonic() - began),
        )
        if row.is_unfit and explaining is not None and explaining.lets_keys_out:
            # Known, and accepted for development: conformance does the same.
            row = replace(
                row, outcome=Outcome.QUIRK, consequence="accepted: for development and tests only"
            )
        self.rows.append(row)
        if self._on_row is not None:
            self._on_row(row)


def _explain(feature: str, known: list[Quirk]) -> Quirk | None:
    return next((quirk for quirk in known if feature in quirk.features), None)


def _broke(exc: Exception) -> str:
    return f"{exc} in this probe" if isinstance(exc, CrashedError) else f"gave {exc}"
