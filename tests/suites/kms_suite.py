"""The acceptance suite of the key service: the fake and the real one both pass it.

Derive a class whose name begins with ``Test`` and give it a fixture `kms` that returns a
KmsUnderTest. What a service does otherwise is a field of that object, with its reason.
"""

from __future__ import annotations

from tests.suites.crypto_suite import CryptoSuite
from tests.suites.import_suite import ImportSuite
from tests.suites.key_suite import KeySuite
from tests.suites.lifecycle_suite import LifecycleSuite
from tests.suites.pair_suite import PairSuite
from tests.suites.permission_suite import PermissionSuite

__all__ = ["KmsSuite"]


class KmsSuite(KeySuite, CryptoSuite, PairSuite, PermissionSuite, LifecycleSuite, ImportSuite):
    """Every RPC of KeyService."""
