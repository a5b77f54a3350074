"""What a key is allowed and becomes, written down a second time: the reference model.

Nothing of the server is used here. A version is "on", "going" or "gone"; a key is ENABLED,
DISABLED, PENDING or DESTROYED. `elapsed` is true time, in days, which no clock that jumps
can change.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["ModelKey"]

OK, DISABLED, INVALID = "OK", "KEY_DISABLED", "KEY_STATE_INVALID"


@dataclass
class ModelKey:
    """One key."""

    state: str = "ENABLED"
    versions: dict[int, str] = field(default_factory=lambda: {1: "on"})
    primary: int = 1
    due: float = 0.0
    versions_due: dict[int, float] = field(default_factory=dict)

    def use(self, version: int) -> str:
        if self.state == "DISABLED":
            return DISABLED
        return OK if self.state == "ENABLED" and self.versions[version] == "on" else INVALID

    def rotate(self) -> str:
        answer = self.use(self.primary)
        if answer == OK:
            self.primary = max(self.versions) + 1
            self.versions[self.primary] = "on"
        return answer

    def set_state(self, state: str) -> str:
        if self.state in {"PENDING", "DESTROYED"}:
            return INVALID
        self.state = state
        return OK

    def schedule(self, elapsed: float, days: int) -> str:
        answer = self.set_state("PENDING")
        if answer == OK:
            self.due = elapsed + days
        return answer

    def cancel(self) -> str:
        if self.state != "PENDING":
            return INVALID
        self.state = "DISABLED"
        return OK

    def schedule_version(self, version: int, elapsed: float, days: int) -> str:
        if self.state not in {"ENABLED", "DISABLED"}:
            return INVALID
        if version == self.primary or self.versions[version] != "on":
            return INVALID
        self.versions[version], self.versions_due[version] = "going", elapsed + days
        return OK

    def cancel_version(self, version: int) -> str:
        if self.state == "DESTROYED" or self.versions[version] != "going":
            return INVALID
        self.versions[version] = "on"
        return OK

    def pass_time(self, elapsed: float) -> None:
        """Whatever is due for longer than any look takes to come is gone."""
        if self.state == "PENDING" and elapsed > self.due:
            self.state = "DESTROYED"
            self.versions = dict.fromkeys(self.versions, "gone")
        for version, due in self.versions_due.items():
            if self.versions[version] == "going" and elapsed > due:
                self.versions[version] = "gone"
