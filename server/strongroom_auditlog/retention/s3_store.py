"""An archive in an S3-compatible store, through boto3 (extra `archive`).

Endpoint, region and credentials are boto3's affair: AWS_ENDPOINT_URL_S3, AWS_REGION,
AWS_ACCESS_KEY_ID and so on, its files, or the machine's role. None of them is a setting
here, none is logged. The identity needs s3:GetObject, s3:PutObject and s3:ListBucket on
the prefix (without the last, a missing object looks like a forbidden one), and nothing
that deletes: lock the bucket against that.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from strongroom_auditlog.errors import ArchiveError
from strongroom_auditlog.retention.store import S3_SCHEME

__all__ = ["S3Store"]

REQUESTS_AT_ONCE: Final = 16
ATTEMPTS: Final = 5
CONNECT_SECONDS: Final = 10
READ_SECONDS: Final = 60

# Bucket names as S3 has them; a prefix of plain path elements, so that no file of an
# archive leaves it.
_LOCATION: Final = re.compile(
    r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>[\w./=-]*))?", re.ASCII
)
_ABSENT: Final = frozenset({"404", "NoSuchKey", "NotFound"})

T = TypeVar("T")


class S3Store:
    """Objects below a prefix of a bucket. An `ArchiveStore`."""

    def __init__(self, client: Any, bucket: str, prefix: str):
        """Use a boto3 client, which may be shared between threads."""
        self._client = client
        self._bucket = bucket
        self._prefix = prefix

    @classmethod
    def open(cls, location: str) -> S3Store:
        """Open ``s3://bucket/prefix`` with what boto3 finds in its environment.

        Raises:
            ArchiveError: The location is none, boto3 is not installed, or there is no such
                bucket, endpoint or identity.
        """
        match = _LOCATION.fullmatch(location)
        elements = (match["prefix"] or "").strip("/").split("/") if match else ["."]
        if match is None or any(part in (".", "..") for part in elements):
            raise ArchiveError(f"{location}: expected s3://bucket/prefix")
        try:
            import boto3  # noqa: PLC0415 - an extra
            from botocore.config import Config  # noqa: PLC0415 - an extra
            from botocore.exceptions import BotoCoreError  # noqa: PLC0415 - an extra
        except ImportError as exc:
            raise ArchiveError(
                "an archive in S3 needs boto3: install strongroom with the extra `archive`"
            ) from exc
        settings = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            max_pool_connections=REQUESTS_AT_ONCE,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        )
        try:
            # A session of its own: the default one is a global, and remembers credentials.
            client = boto3.session.Session().client("s3", config=settings)
        except (BotoCoreError, ValueError) as exc:
            raise ArchiveError(f"{location}: {exc}") from exc
        prefix = "/".join(part for part in elements if part)
        store = cls(client, match["bucket"], f"{prefix}/" if prefix else "")
        if store._ask(lambda: client.head_bucket(Bucket=store._bucket), "") is None:
            raise ArchiveError(f"{location}: no such bucket")
        return store

    @property
    def location(self) -> str:
        """Bucket and prefix."""
        return f"{S3_SCHEME}{self._bucket}/{self._prefix}".rstrip("/")

    @property
    def is_local(self) -> bool:
        """Never."""
        return False

    def read(self, path: str, max_bytes: int) -> bytes | None:
        """As `ArchiveStore`."""

        def fetch() -> bytes:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + path)
            with answer["Body"] as body:
                return bytes(body.read(max_bytes + 1))

        return self._ask(fetch, path)

    def read_many(self, paths: Sequence[str], max_bytes: int) -> list[bytes | None]:
        """As `ArchiveStore`: a request takes milliseconds, most of them waiting."""
        with ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="archive") as pool:
            return list(pool.map(lambda path: self.read(path, max_bytes), paths))

    def write_missing(self, files: Sequence[tuple[str, bytes]]) -> int:
        """As `ArchiveStore`: one PUT for each file, which the store checks against its hash."""
        with ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="archive") as pool:
            return sum(pool.map(lambda file: self._write_missing(*file), files))

    def _write_missing(self, path: str, data: bytes) -> bool:
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
        key = self._prefix + path
        present: dict[str, Any] | None = self._ask(
            lambda: self._client.head_object(Bucket=self._bucket, Key=key, ChecksumMode="ENABLED"),
            path,
        )
        # A store that keeps no checksums says none, and the file is written once more.
        if present is not None and present.get("ChecksumSHA256") == digest:
            return False
        self._ask(
            lambda: self._client.put_object(
                Bucket=self._bucket, Key=key, Body=data, ChecksumSHA256=digest
            ),
            path,
        )
        return True

    def _ask(self, request: Callable[[], T], path: str) -> T | None:
        """Make a request; None when the object is not there.

        Raises:
            ArchiveError: It failed, several times where trying again may help.
        """
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - an extra

        where = f"{self.location}/{path}".rstrip("/")
        try:
            return request()
        except ClientError as exc:
            error = exc.response.get("Error", {})
            if error.get("Code") in _ABSENT:
                return None
            what = f"{error.get('Code', 'error')} {error.get('Message', '')}".strip()
            raise ArchiveError(f"{where}: {what}") from exc
        except BotoCoreError as exc:
            raise ArchiveError(f"{where}: {exc}") from exc
