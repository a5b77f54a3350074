"""Which operation a key's state allows: one table, and the error of each cell.

The rows are actions, the columns states; what is in no row and uses a key needs an enabled
one. As in AWS KMS, so that its users find what they know, but for one thing: a use of a
key that waits for its deletion is KEY_STATE_INVALID and never KEY_DISABLED, because the
cure is another. The last column, PENDING_IMPORT, is that of a key whose material has to be
brought from outside.

    operation                      ENABLED   DISABLED       …DELETION   DESTROYED   …IMPORT
    uses of a key, RotateKey       ok        KEY_DISABLED   invalid     invalid     invalid
    EnableKey, DisableKey,         ok        ok             invalid     invalid     invalid
      ScheduleKeyVersionDeletion
    UpdateKey, CreateAlias,        ok        ok             invalid     invalid     ok
      tags, ScheduleKeyDeletion,
      GetImportParameters,
      ImportKeyMaterial
    CancelKeyDeletion              invalid   invalid        ok          invalid     invalid
    CancelKeyVersionDeletion,      ok        ok             ok          invalid     ok
      UpdateAlias (the old key),
      DeleteImportedKeyMaterial
    seeing, listing, DeleteAlias   ok        ok             ok          ok          ok
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from strongroom_server.domain.keys import Key, KeyState, KeyVersion, VersionState
from strongroom_server.domain.policy import Action
from strongroom_server.errors import KeyDisabledError, KeyStateInvalidError

__all__ = ["TABLE", "USE", "Cell", "cell", "check_state", "check_version_state"]


class Cell(enum.Enum):
    """What a state says to an operation."""

    OK = enum.auto()
    DISABLED = enum.auto()
    """Refused with KEY_DISABLED."""
    INVALID = enum.auto()
    """Refused with KEY_STATE_INVALID."""


_STATES: Final = (
    KeyState.ENABLED,
    KeyState.DISABLED,
    KeyState.PENDING_DELETION,
    KeyState.DESTROYED,
    KeyState.PENDING_IMPORT,
)


def _row(*cells: Cell) -> Mapping[KeyState, Cell]:
    return MappingProxyType(dict(zip(_STATES, cells, strict=True)))


USE: Final = _row(Cell.OK, Cell.DISABLED, Cell.INVALID, Cell.INVALID, Cell.INVALID)
"""The row of everything that is in no other row: uses of a key, and RotateKey."""

_SWITCH: Final = _row(Cell.OK, Cell.OK, Cell.INVALID, Cell.INVALID, Cell.INVALID)
_CHANGE: Final = _row(Cell.OK, Cell.OK, Cell.INVALID, Cell.INVALID, Cell.OK)
_CANCEL: Final = _row(Cell.INVALID, Cell.INVALID, Cell.OK, Cell.INVALID, Cell.INVALID)
_BEFORE_THE_END: Final = _row(Cell.OK, Cell.OK, Cell.OK, Cell.INVALID, Cell.OK)
_ALWAYS: Final = _row(Cell.OK, Cell.OK, Cell.OK, Cell.OK, Cell.OK)

TABLE: Final[Mapping[Action, Mapping[KeyState, Cell]]] = MappingProxyType(
    {
        Action.GET_KEY: _ALWAYS,
        Action.LIST_KEY_VERSIONS: _ALWAYS,
        Action.GET_KEY_VERSION: _ALWAYS,
        Action.DELETE_ALIAS: _ALWAYS,
        Action.ENABLE_KEY: _SWITCH,
        Action.DISABLE_KEY: _SWITCH,
        Action.UPDATE_KEY: _CHANGE,
        Action.TAG_RESOURCE: _CHANGE,
        Action.UNTAG_RESOURCE: _CHANGE,
        # Also for the key that an alias is pointed to.
        Action.CREATE_ALIAS: _CHANGE,
        Action.SCHEDULE_KEY_DELETION: _CHANGE,
        # A version whose material is brought goes with its key: there is no other.
        Action.SCHEDULE_KEY_VERSION_DELETION: _SWITCH,
        Action.GET_IMPORT_PARAMETERS: _CHANGE,
        # Also the same material again, for another time of its end.
        Action.IMPORT_KEY_MATERIAL: _CHANGE,
        Action.DELETE_IMPORTED_KEY_MATERIAL: _BEFORE_THE_END,
        Action.CANCEL_KEY_DELETION: _CANCEL,
        Action.CANCEL_KEY_VERSION_DELETION: _BEFORE_THE_END,
        # An alias of a destroyed key has to be deleted first: whoever goes on using it is
        # not led to another key without anybody having said so.
        Action.UPDATE_ALIAS: _BEFORE_THE_END,
        Action.ROTATE_KEY: USE,
        Action.GET_KEY_POLICY: _ALWAYS,
        Action.LIST_KEY_POLICY_REVISIONS: _ALWAYS,
        Action.EXPLAIN_ACCESS: _ALWAYS,
        Action.LIST_GRANTS: _ALWAYS,
        Action.RETIRE_GRANT: _ALWAYS,
        Action.REVOKE_GRANT: _ALWAYS,
        Action.PUT_KEY_POLICY: _BEFORE_THE_END,
        # A grant is as much as a use: not of a key that cannot be used.
        Action.CREATE_GRANT: USE,
    }
)
"""Rows of operations that do not use a key. USE is the row of all others."""

_WORDS: Final = {
    KeyState.ENABLED: "enabled",
    KeyState.DISABLED: "disabled",
    KeyState.PENDING_DELETION: "waiting for its deletion",
    KeyState.DESTROYED: "destroyed",
    KeyState.PENDING_IMPORT: "waiting for the import of its material",
}


def cell(action: Action, state: KeyState) -> Cell:
    """Return what `state` says to `action`."""
    return TABLE.get(action, USE)[state]


def check_state(action: Action, key: Key) -> None:
    """Refuse an operation that the state of its key does not allow.

    Raises:
        KeyDisabledError: The key is disabled, and that is what stands in the way.
        KeyStateInvalidError: Another state does.
    """
    match cell(action, key.state):
        case Cell.DISABLED:
            raise KeyDisabledError(str(key.name))
        case Cell.INVALID:
            raise KeyStateInvalidError(str(key.name), _WORDS[key.state], action)
        case Cell.OK:
            return


def check_version_state(action: Action, key: Key, version: KeyVersion) -> None:
    """Refuse the use of a version that waits for its destruction, or is destroyed.

    Raises:
        KeyStateInvalidError: It is one of these.
    """
    if version.state is VersionState.ENABLED:
        return
    state = _WORDS[KeyState(version.state.value)]
    raise KeyStateInvalidError(str(key.version_name(version.number)), state, action)
