"""The two streams, as docs/formats/audit-nats-v1.md has them."""

from __future__ import annotations

from typing import Final

from nats.js import JetStreamContext, api
from nats.js import errors as js_errors

from strongroom.jetstream.endpoint import NatsEndpoint, NatsError, ack_subject, batch_subject

__all__ = ["ensure_streams"]

DUPLICATE_WINDOW_SECONDS: Final = 120.0

#: What a stream that is there must have as we would make it. The rest is the operator's.
_FIXED: Final = (
    *("subjects", "retention", "discard", "storage", "max_age", "max_msgs_per_subject"),
    *("deny_delete", "deny_purge", "allow_direct", "sealed", "no_ack"),
)


async def ensure_streams(context: JetStreamContext, endpoint: NatsEndpoint) -> None:
    """Make the streams that are not there; refuse those that could lose or forget.

    Raises:
        NatsError: A stream has other settings. And what nats-py raises.
    """
    batches = api.StreamConfig(
        name=endpoint.stream,
        subjects=[batch_subject("*")],
        retention=api.RetentionPolicy.WORK_QUEUE,
        discard=api.DiscardPolicy.NEW,
        max_bytes=endpoint.max_bytes,
        duplicate_window=DUPLICATE_WINDOW_SECONDS,
    )
    acknowledgements = api.StreamConfig(
        name=endpoint.ack_stream,
        subjects=[ack_subject("*")],
        retention=api.RetentionPolicy.LIMITS,
        discard=api.DiscardPolicy.OLD,
        max_msgs_per_subject=1,
    )
    for wanted in (batches, acknowledgements):
        await _ensure(
            context,
            wanted.evolve(
                storage=api.StorageType.FILE,
                num_replicas=endpoint.replicas,
                max_age=0,
                deny_delete=True,
                deny_purge=True,
                allow_direct=True,
                sealed=False,
                no_ack=False,
            ),
        )


async def _ensure(context: JetStreamContext, wanted: api.StreamConfig) -> None:
    name = str(wanted.name)
    try:
        found = (await context.stream_info(name)).config
    except js_errors.NotFoundError:
        found = (await context.add_stream(wanted)).config
    differing = [each for each in _FIXED if getattr(found, each) != getattr(wanted, each)]
    if differing:
        raise NatsError(
            f"stream {name} has other settings than docs/formats/audit-nats-v1.md says: "
            f"{', '.join(differing)}; change them, or name another stream in [nats]"
        )
