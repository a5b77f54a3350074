"""How the fake's keys, versions and aliases end or move."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from strongroom.kms.v1 import resources_pb2 as pb
from strongroom.resource_names import AliasName
from strongroom_client.errors import KeyStateInvalidError

if TYPE_CHECKING:
    from strongroom_client._fake_shards import FakeKey

__all__ = ["FakeAlias", "FakeEnd", "state_invalid"]


def state_invalid(name: str) -> KeyStateInvalidError:
    """Make the error for a key or version in a state that does not allow this."""
    return KeyStateInvalidError(f"the state of {name} does not allow this")


@dataclass(slots=True)
class FakeEnd:
    """The end of a key or version: none, one to come, or one that was."""

    due: datetime | None = None
    destroyed: datetime | None = None

    @property
    def state(self) -> pb.KeyVersionState.ValueType:
        """The state of a version with this end."""
        if self.destroyed is not None:
            return pb.KEY_VERSION_STATE_DESTROYED
        if self.due is not None:
            return pb.KEY_VERSION_STATE_PENDING_DELETION
        return pb.KEY_VERSION_STATE_ENABLED

    def destroy(self, now: datetime) -> None:
        """End it, unless it has ended."""
        self.due, self.destroyed = None, self.destroyed or now

    def settle(self, now: datetime) -> bool:
        """End it when it is due; say whether it was."""
        if self.due is None or now < self.due:
            return False
        self.destroy(now)
        return True

    def show(self, message: pb.Key | pb.KeyVersion) -> None:
        """Put the times into a message."""
        if self.due is not None:
            message.deletion_time.FromDatetime(self.due)
        if self.destroyed is not None:
            message.destroy_time.FromDatetime(self.destroyed)


@dataclass(slots=True)
class FakeAlias:
    """A second name of a key."""

    name: AliasName
    key: FakeKey
    create_time: datetime
    update_time: datetime

    def to_proto(self) -> pb.Alias:
        """Return the alias as the API shows it."""
        alias = pb.Alias(name=str(self.name), key=str(self.key.name))
        alias.create_time.FromDatetime(self.create_time)
        alias.update_time.FromDatetime(self.update_time)
        return alias
