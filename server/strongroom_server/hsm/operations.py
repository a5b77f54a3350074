"""Requests to answers: what a worker does with each operation."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from strongroom_server.hsm import wire
from strongroom_server.hsm.asymmetric import KeyPairs
from strongroom_server.hsm.external import ExternalMaterial
from strongroom_server.hsm.key_ring import KeyRing
from strongroom_server.hsm.return_codes import (
    HsmFaultError,
    HsmTokenError,
    KeyAbsentError,
    PolicyRefusedError,
    TamperedError,
    TokenFullError,
)
from strongroom_server.hsm.ring_errors import (
    ArgumentRefusedError,
    MaterialDamagedError,
    UnsupportedError,
)
from strongroom_server.hsm.suspects import Suspects
from strongroom_server.hsm.transfer import Transfer
from strongroom_server.hsm.wire import Answer, Operation, Request, Status
from strongroom_server.hsm.wire_operations import ImportForm

__all__ = ["Operations"]

_MAX_TEXT_BYTES: Final = 500

_STATUSES: Final[dict[type[HsmTokenError], Status]] = {
    TamperedError: Status.TAMPERED,
    KeyAbsentError: Status.KEY_ABSENT,
    PolicyRefusedError: Status.POLICY,
    TokenFullError: Status.FULL,
    MaterialDamagedError: Status.DAMAGED,
    UnsupportedError: Status.UNSUPPORTED,
    ArgumentRefusedError: Status.INVALID,
    HsmFaultError: Status.FAULT,
}


class Operations:
    """Runs requests on a ring. Thread safety: none; the worker's one thread."""

    def __init__(self, ring: KeyRing):
        """Work on a ring."""
        self._ring = ring
        self._pairs = KeyPairs(ring)
        self._transfer = Transfer(ring)
        self._suspects = Suspects(ring.check_module)
        self._external = ExternalMaterial(ring, self._transfer)
        self._by_number: dict[int, Callable[[Request], tuple[bytes, bytes]]] = {
            Operation.ENCRYPT: self._encrypt,
            Operation.DECRYPT: self._decrypt,
            Operation.REENCRYPT: self._reencrypt,
            Operation.DATA_KEY: self._data_key,
            Operation.SEALED_DATA_KEY: self._sealed_data_key,
            Operation.RANDOM: self._random,
            Operation.CREATE: self._create,
            Operation.LOAD: self._load,
            Operation.PING: self._ping,
            Operation.CREATE_WRAPPED: self._create_wrapped,
            Operation.CREATE_ROOT: self._create_root,
            Operation.REWRAP: self._rewrap,
            Operation.PUBLIC_KEY: self._public_key,
            Operation.SIGN: self._sign,
            Operation.SIGN_DIGEST: self._sign,
            Operation.VERIFY: self._verify,
            Operation.VERIFY_DIGEST: self._verify,
            Operation.MAC: self._mac,
            Operation.VERIFY_MAC: self._verify_mac,
            Operation.AGREE: self._agree,
            Operation.RSA_ENCRYPT: self._rsa_encrypt,
            Operation.RSA_DECRYPT: self._rsa_decrypt,
            Operation.MAKE_TRANSFER_KEY: self._make_transfer_key,
            Operation.DESTROY_TRANSFER_KEY: self._destroy_transfer_key,
            Operation.EXPORT: self._export,
            Operation.IMPORT: self._import,
            Operation.IMPORT_EXTERNAL: self._import_external,
            Operation.DESTROY: self._destroy,
        }

    def run_batch(self, requests: list[Request]) -> tuple[list[bytes], bool]:
        """Run requests in order; return packed answers and whether the session is well.

        After a fault the rest of the batch is answered FAULT untried.
        """
        answers = []
        fault: bytes | None = None
        before = time.monotonic()
        for request in requests:
            first, second = b"", b""
            if fault is not None:
                status, first = Status.FAULT, fault
            elif request.deadline <= before:
                status = Status.EXPIRED  # nobody waits for it any more
            else:
                try:
                    first, second = self._suspects.run(request, self._by_number[request.operation])
                    status = Status.OK
                except HsmTokenError as exc:
                    status = _STATUSES.get(type(exc), Status.FAULT)
                    # Of what does not verify nobody is told more.
                    first = b"" if status is Status.TAMPERED else _text(exc)
                    if status is Status.FAULT:
                        fault = first
            after = time.monotonic()
            microseconds = min(int((after - before) * 1e6), 2**32 - 1)
            before = after
            answers.append(
                wire.pack_answer(Answer(request.id, status, microseconds, first, second))
            )
        return answers, fault is None

    def _encrypt(self, request: Request) -> tuple[bytes, bytes]:
        return b"", self._ring.encrypt(request.key, request.data, request.aad)

    def _decrypt(self, request: Request) -> tuple[bytes, bytes]:
        return self._ring.decrypt(request.key, request.data, request.aad), b""

    def _reencrypt(self, request: Request) -> tuple[bytes, bytes]:
        plaintext = self._ring.decrypt(request.key, request.data, request.aad)
        return b"", self._ring.encrypt(request.key2, plaintext, request.aad2)

    def _data_key(self, request: Request) -> tuple[bytes, bytes]:
        return self._ring.generate_data_key(request.key, request.number, request.aad)

    def _sealed_data_key(self, request: Request) -> tuple[bytes, bytes]:
        _, sealed = self._ring.generate_data_key(request.key, request.number, request.aad)
        return b"", sealed

    def _random(self, request: Request) -> tuple[bytes, bytes]:
        return self._ring.random(request.number), b""

    def _create(self, request: Request) -> tuple[bytes, bytes]:
        self._ring.create(request.key)
        return b"", b""

    def _load(self, request: Request) -> tuple[bytes, bytes]:
        self._ring.load(request.key)
        return b"", b""

    def _ping(self, request: Request) -> tuple[bytes, bytes]:
        del request
        self._ring.check_health()
        return b"", b""

    def _create_wrapped(self, request: Request) -> tuple[bytes, bytes]:
        return b"", self._ring.create_wrapped(request.key)

    def _create_root(self, request: Request) -> tuple[bytes, bytes]:
        self._ring.wrapping.create_root(request.key.root)
        return b"", b""

    def _rewrap(self, request: Request) -> tuple[bytes, bytes]:
        return b"", self._ring.wrapping.rewrap(request.key, request.key2.root)

    def _public_key(self, request: Request) -> tuple[bytes, bytes]:
        return b"", self._pairs.public_key(request.key)

    def _sign(self, request: Request) -> tuple[bytes, bytes]:
        is_digest = request.operation == Operation.SIGN_DIGEST
        signature = self._pairs.sign(request.key, request.number, request.data, is_digest=is_digest)
        return b"", signature

    def _verify(self, request: Request) -> tuple[bytes, bytes]:
        is_digest = request.operation == Operation.VERIFY_DIGEST
        self._pairs.verify(
            request.key, request.number, request.data, request.aad, is_digest=is_digest
        )
        return b"", b""

    def _mac(self, request: Request) -> tuple[bytes, bytes]:
        return b"", self._ring.mac(request.key, request.number, request.data)

    def _verify_mac(self, request: Request) -> tuple[bytes, bytes]:
        self._ring.verify_mac(request.key, request.number, request.data, request.aad)
        return b"", b""

    def _agree(self, request: Request) -> tuple[bytes, bytes]:
        return self._pairs.agree(request.key, request.data), b""

    def _rsa_encrypt(self, request: Request) -> tuple[bytes, bytes]:
        return b"", self._pairs.encrypt(request.key, request.number, request.data)

    def _rsa_decrypt(self, request: Request) -> tuple[bytes, bytes]:
        return self._pairs.decrypt(request.key, request.number, request.data), b""

    def _make_transfer_key(self, request: Request) -> tuple[bytes, bytes]:
        wanted = request.data[0] if request.data else None
        public_key, algorithm = self._transfer.create_key(request.key.ref, request.number, wanted)
        return bytes([algorithm]), public_key

    def _destroy_transfer_key(self, request: Request) -> tuple[bytes, bytes]:
        self._transfer.destroy_key(request.key.ref)
        return b"", b""

    def _export(self, request: Request) -> tuple[bytes, bytes]:
        return b"", self._transfer.export(request.key, request.number, request.data)

    def _destroy(self, request: Request) -> tuple[bytes, bytes]:
        self._ring.destroy(request.key)
        return b"", b""

    def _import(self, request: Request) -> tuple[bytes, bytes]:
        return b"", self._transfer.import_(request.key, request.key2.ref, request.data)

    def _import_external(self, request: Request) -> tuple[bytes, bytes]:
        return self._external.import_(
            request.key,
            request.key2.ref,
            request.number,
            request.data,
            form=ImportForm(request.aad[0]),
            check=request.aad[1:],
        )


def _text(exc: Exception) -> bytes:
    text = f"{exc.field}\0{exc}" if isinstance(exc, ArgumentRefusedError) else str(exc)
    return text.encode()[:_MAX_TEXT_BYTES]
