"""The methods of `AsyncKmsClient` for your own key material."""

from __future__ import annotations

import uuid
from datetime import datetime

from strongroom_client import _import_calls
from strongroom_client._drivers import AsyncDriver
from strongroom_client.import_results import ImportParameters, WrappingAlgorithm
from strongroom_client.results import Key

__all__ = ["AsyncImportMethods"]


class AsyncImportMethods:
    """Part of `AsyncKmsClient`."""

    driver: AsyncDriver

    async def get_import_parameters(
        self,
        key: str,
        *,
        wrapping_algorithm: WrappingAlgorithm | None = None,
        request_id: str | None = None,
    ) -> ImportParameters:
        """Return what to wrap material with, and a token good for 24 hours and one import.

        What the key had of them before is of no use any more.

        Args:
            key: Name of a key of origin EXTERNAL; aliases are not taken.
            wrapping_algorithm: The best that the region's HSM has when None.
            request_id: A UUID; a repeat with it returns the first answer.

        Raises:
            KeyOriginMismatchError: The key's material is made in the HSM.
            KeySpecUnsupportedError: The HSM does not take this algorithm.
            LimitExceededError: Too many imports are open in the region.
        """
        return await self.driver.run(
            _import_calls.get_import_parameters(
                key,
                wrapping_algorithm=wrapping_algorithm,
                request_id=request_id or str(uuid.uuid4()),
            )
        )

    async def import_key_material(
        self,
        key: str,
        *,
        import_token: bytes,
        encrypted_material: bytes,
        valid_to: datetime | None = None,
        etag: str = "",
        request_id: str | None = None,
    ) -> Key:
        """Bring material into a key; the first that is brought is the only one it ever takes.

        Args:
            key: Name of the key; aliases are not taken.
            import_token: Of the parameters that the material was wrapped with.
            encrypted_material: What `wrap_key_material` returned.
            valid_to: When the material is destroyed, at most 365 days ahead; never when None.
            etag: When given, of the key that must not have changed.
            request_id: A UUID; a repeat with it returns the first answer.

        Raises:
            ImportTokenInvalidError: Not a token, another key's, or replaced by a later one.
            ImportTokenExpiredError: It has ended.
            ImportTokenUsedError: It was presented before.
            CiphertextInvalidError: The material does not unwrap; the token is used up.
            KeyMaterialMismatchError: Other material was imported first; the same holds.
        """
        return await self.driver.run(
            _import_calls.import_key_material(
                key,
                import_token=import_token,
                encrypted_material=encrypted_material,
                valid_to=valid_to,
                etag=etag,
                request_id=request_id or str(uuid.uuid4()),
            )
        )

    async def delete_imported_key_material(
        self, key: str, *, etag: str = "", request_id: str | None = None
    ) -> Key:
        """Destroy imported material; the key then waits for the same material again.

        Args:
            key: Name of the key; aliases are not taken.
            etag: When given, of the key that must not have changed.
            request_id: A UUID; a repeat with it returns the first answer.

        Raises:
            KeyOriginMismatchError: The key's material is made in the HSM.
        """
        return await self.driver.run(
            _import_calls.delete_imported_key_material(
                key, etag=etag, request_id=request_id or str(uuid.uuid4())
            )
        )
