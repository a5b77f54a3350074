"""The methods of `KmsClient` for keys that are there: deletion, tags, aliases."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence

from strongroom_client import _lifecycle_calls
from strongroom_client._drivers import Driver
from strongroom_client._lifecycle_calls import Change
from strongroom_client.results import Alias, Key, KeyVersion

__all__ = ["LifecycleMethods"]


class LifecycleMethods:
    """Part of `KmsClient`.

    Every change takes `etag` (when given, the key must not have changed since),
    `request_id` (a UUID; a repeat with it returns the first answer) and `validate_only`
    (everything is checked, nothing changes).
    """

    driver: Driver

    def update_key(
        self,
        key: str,
        *,
        description: str,
        etag: str = "",
        request_id: str | None = None,
        validate_only: bool = False,
    ) -> Key:
        """Change the description of a key, at most 8,192 characters. Never secret.

        Raises:
            KeyStateInvalidError: It waits for its deletion, or is destroyed.
        """
        change = Change(request_id or str(uuid.uuid4()), etag, validate_only)
        return self.driver.run(
            _lifecycle_calls.update_key(key, description=description, change=change)
        )

    def schedule_key_deletion(
        self,
        key: str,
        *,
        pending_days: int = 0,
        etag: str = "",
        request_id: str | None = None,
        validate_only: bool = False,
    ) -> Key:
        """Stop every use of a key at once, and have it destroyed when the time is over.

        What it encrypted cannot be decrypted any more, by nobody and for ever.

        Args:
            key: Name of the key; aliases are not taken.
            pending_days: 7 to 30, or more than 7 where the deployment says so; 0 is 30.
            etag: See the class.
            request_id: See the class.
            validate_only: See the class.

        Raises:
            KeyStateInvalidError: It waits already, or is destroyed.
        """
        change = Change(request_id or str(uuid.uuid4()), etag, validate_only)
        return self.driver.run(
            _lifecycle_calls.schedule_key_deletion(key, pending_days=pending_days, change=change)
        )

    def cancel_key_deletion(
        self,
        key: str,
        *,
        etag: str = "",
        request_id: str | None = None,
        validate_only: bool = False,
    ) -> Key:
        """Take the deletion of a key back; the key is disabled then.

        Raises:
            KeyStateInvalidError: It does not wait, or its destruction has begun.
        """
        change = Change(request_id or str(uuid.uuid4()), etag, validate_only)
        return self.driver.run(_lifecycle_calls.cancel_key_deletion(key, change=change))

    def get_key_version(self, name: str) -> KeyVersion:
        """Describe a version, named ``regions/REGION/keys/UUID/versions/N``."""
        return self.driver.run(_lifecycle_calls.get_key_version(name))

    def schedule_key_version_deletion(
        self,
        name: str,
        *,
        pending_days: int = 0,
        etag: str = "",
        request_id: str | None = None,
        validate_only: bool = False,
    ) -> KeyVersion:
        """Do the same to one version, which must not be the primary one.

        Args:
            name: Name of the version.
            pending_days: As for `schedule_key_deletion`.
            etag: Of the key; see the class.
            request_id: See the class.
            validate_only: See the class.

        Raises:
            KeyStateInvalidError: It is the primary one, waits already, or is destroyed.
        """
        change = Change(request_id or str(uuid.uuid4()), etag, validate_only)
        return self.driver.run(
            _lifecycle_calls.schedule_key_version_deletion(
                name, pending_days=pending_days, change=change
            )
        )

    def cancel_key_version_deletion(
        self,
        name: str,
        *,
        etag: str = "",
        request_id: str | None = None,
        validate_only: bool = False,
    ) -> KeyVersion:
        """Take the deletion of a version back; it can be used again when its key can.

        Raises:
            KeyStateInvalidError: It does not wait, or its destruction has begun.
        """
        change = Change(request_id or str(uuid.uuid4()), etag, validate_only)
        return self.driver.run(_lifecycle_calls.cancel_key_version_deletion(name, change=change))

    def tag_key(
        self,
        key: str,
        tags: Mapping[str, str],
        *,
        etag: str = "",
        request_id: str | None = None,
        validate_only: bool = False,
    ) -> Key:
        """Set tags of a key; others stay. At most 50 in all. Never secret."""
        change = Change(request_id or str(uuid.uuid4()), etag, validate_only)
        return self.driver.run(_lifecycle_calls.tag_key(key, tags, change=change))

    def untag_key(
        self,
        key: str,
        tag_names: Sequence[str],
        *,
        etag: str = "",
        request_id: str | None = None,
        validate_only: bool = False,
    ) -> Key:
        """Take tags off a key; one that is not there is no error."""
        change = Change(request_id or str(uuid.uuid4()), etag, validate_only)
        return self.driver.run(_lifecycle_calls.untag_key(key, tag_names, change=change))

    def update_alias(
        self,
        alias: str,
        *,
        key: str,
        request_id: str | None = None,
        validate_only: bool = False,
    ) -> Alias:
        """Point an alias to another key of the same region, spec and usage.

        Args:
            alias: Name of the alias, ``regions/REGION/aliases/NAME``.
            key: Name of the key that it shall name.
            request_id: See the class.
            validate_only: See the class.

        Raises:
            KeyStateInvalidError: The key that it names is destroyed: delete the alias; or the
                other one is about to be.
        """
        change = Change(request_id or str(uuid.uuid4()), "", validate_only)
        return self.driver.run(_lifecycle_calls.update_alias(alias, key=key, change=change))

    def delete_alias(
        self, alias: str, *, request_id: str | None = None, validate_only: bool = False
    ) -> Alias:
        """Take an alias away; return it as it was. Its key stays."""
        change = Change(request_id or str(uuid.uuid4()), "", validate_only)
        return self.driver.run(_lifecycle_calls.delete_alias(alias, change=change))

    def list_aliases(self, region: str, *, key: str = "", page_size: int = 100) -> Iterator[Alias]:
        """Yield the aliases of `region` whose keys you may see, or those of `key`, by name."""
        token = ""
        while True:
            aliases, token = self.driver.run(
                _lifecycle_calls.list_aliases(region, key, token, page_size)
            )
            yield from aliases
            if not token:
                return
