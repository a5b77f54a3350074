"""``strongroom hsm audit`` and ``reconcile``: what is on a token, against what should be."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from strongroom_server.cli.hsm_shards import ShardOption
from strongroom_server.cli.options import Format, OutputOption
from strongroom_server.cli.serve import ConfigFileOption

if TYPE_CHECKING:
    from strongroom_server.config import Config, ShardConfig
    from strongroom_server.hsm.errand import HsmTarget
    from strongroom_server.hsm.inventory import Item
    from strongroom_server.hsm.reconcile import Difference, Look, Records

__all__ = ["audit", "reconcile"]

ITEM_COLUMNS: Final = ("kind", "name", "objects", "result")
DIFFERENCE_COLUMNS: Final = ("result", "kind", "name", "detail")
SILENCE_SECONDS: Final = 60.0
MARGIN_SECONDS: Final = 5.0
_PAGE_KEYS: Final = 1000


def audit(
    *, config: ConfigFileOption, region: ShardOption = None, output: OutputOption = Format.TABLE
) -> None:
    """Check the attributes of every key on a token.

    Every worker does so at its start, for the keys of ours; this shows it. The database is
    not looked at. Ends with 5 when a key could escape.
    """
    from strongroom_server.cli.config_kinds import load_server_config
    from strongroom_server.cli.failures import CliError
    from strongroom_server.cli.hsm_errands import answering
    from strongroom_server.cli.hsm_shards import choose_shard, target_of
    from strongroom_server.cli.output import print_rows
    from strongroom_server.hsm.inventory import ItemKind

    target = target_of(choose_shard(load_server_config(config).shards, region))
    with answering():
        items = _list(target)
    print_rows(
        [
            {
                "kind": item.kind.value,
                "name": item.name,
                "objects": item.materials + item.publics,
                "result": item.weakness or ("" if item.kind is ItemKind.FOREIGN else "ok"),
            }
            for item in items
        ],
        ITEM_COLUMNS,
        output,
    )
    unsafe = sum(bool(item.weakness) for item in items)
    if unsafe:
        raise CliError("KEY_UNSAFE", f"{unsafe} of {len(items)} are not safe to use")


def reconcile(
    *,
    config: ConfigFileOption,
    region: ShardOption = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Destroy orphans, after asking about them.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="With --apply: do not ask; every name is printed.")
    ] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Compare a region's database with its token.

    Lists orphans (objects of ours that no record names), missing ones (records of objects
    that are not there), duplicates, half pairs and keys whose attributes are unsafe. Looks
    twice when there are objects without a record, for a creation may be under way; servers
    may run meanwhile. Changes nothing without --apply, and with it destroys orphaned key
    versions and transfer keys alone: there is no way back. First make sure that the
    configuration names the current database, and not a copy that was restored, and that no
    other region or deployment keeps keys on the same token.

    Ends with 5 when something differs.
    """
    from strongroom_server.cli.config_kinds import load_server_config
    from strongroom_server.cli.failures import CliError
    from strongroom_server.cli.hsm_errands import answering
    from strongroom_server.cli.hsm_shards import choose_shard
    from strongroom_server.cli.output import note, print_rows

    if yes and not apply:
        raise CliError.usage("--yes goes with --apply")
    loaded = load_server_config(config)
    shard = choose_shard(loaded.shards, region)
    with answering():
        found = _compare(loaded, shard)
        print_rows(
            [
                {
                    "result": each.verdict.value,
                    "kind": each.kind.value,
                    "name": each.name,
                    "detail": each.detail,
                }
                for each in found
            ],
            DIFFERENCE_COLUMNS,
            output,
        )
        orphans = [each.name for each in found if each.can_be_destroyed]
        if apply and orphans:
            _destroy(shard, orphans, without_asking=yes)
            found = [each for each in found if not each.can_be_destroyed]
    if found:
        raise CliError("HSM_DIFFERS", f"{len(found)} differences in {shard.region}")
    if not orphans:
        note(f"nothing differs in {shard.region}")


def _compare(config: Config, shard: ShardConfig) -> list[Difference]:
    from strongroom_server.cli.output import note
    from strongroom_server.hsm.reconcile import compare, unrecorded

    first = _look(shard)
    if not unrecorded(first):
        return compare(first, first)
    # No call, and so no creation, lasts longer than the server's longest deadline.
    seconds = config.server.default_deadline_seconds + MARGIN_SECONDS
    note(f"objects without a record: a creation may be under way; looking again in {seconds:.0f} s")
    time.sleep(seconds)
    return compare(first, _look(shard))


def _look(shard: ShardConfig) -> Look:
    """Look at the token first: what is made in between has a record by then, or none yet."""
    from strongroom_server.cli.hsm_shards import target_of
    from strongroom_server.hsm.reconcile import Look

    items = tuple(_list(target_of(shard)))
    return Look(items, asyncio.run(_read_records(shard)))


def _list(target: HsmTarget) -> list[Item]:
    from strongroom_server.hsm.errand import Errand
    from strongroom_server.hsm.inventory import Item

    with Errand(target, "list") as errand:
        return [
            Item.from_json(message["object"])
            for message in errand.messages(silence_seconds=SILENCE_SECONDS)
        ]


async def _read_records(shard: ShardConfig) -> Records:
    from strongroom_server.app import SystemClock
    from strongroom_server.cli.hsm_shards import open_store
    from strongroom_server.domain.keys import KeyOrigin, KeyStorage
    from strongroom_server.hsm import key_template
    from strongroom_server.hsm.reconcile import Records

    versions: set[str] = set()
    external: set[str] = set()
    async with open_store(shard, SystemClock()) as store:
        page = await store.list_keys(after=None, limit=_PAGE_KEYS)
        while page:
            resident = [key for key in page if key.storage is KeyStorage.RESIDENT]
            for key in resident:
                for version in key.versions:
                    label = key_template.label_for(key.version_ref(version.number).to_bytes())
                    if version.has_material:
                        versions.add(label)
                    if version.has_material and version.origin is KeyOrigin.EXTERNAL:
                        external.add(label)
            last = page[-1]
            page = await store.list_keys(after=(last.create_time, last.key_id), limit=_PAGE_KEYS)
        roots = {key_template.label_for_root(root.number) for root in await store.list_roots()}
        transfers = {
            key_template.label_for_transfer(name.bytes) for name in await store.wrapping_keys()
        }
    return Records(frozenset(versions), frozenset(roots), frozenset(external), frozenset(transfers))


def _destroy(shard: ShardConfig, names: list[str], *, without_asking: bool) -> None:
    """Record, destroy, then look again in another process: a module may only seem to have done it.

    Raises:
        CliError: Somebody recorded one of them meanwhile, or it is still there.
    """
    from strongroom_server.cli.failures import CliError
    from strongroom_server.cli.hsm_records import record_destructions
    from strongroom_server.cli.hsm_shards import target_of
    from strongroom_server.cli.output import note
    from strongroom_server.hsm.errand import Errand

    for name in names:
        note(f"to be destroyed: {name}")
    note(
        "another region or deployment that keeps keys on this token would see its own keys "
        "in this list"
    )
    if not without_asking:
        typer.confirm(f"destroy these {len(names)} for ever?", abort=True, err=True)
    now = asyncio.run(_read_records(shard))
    recorded = (now.versions | now.transfers) & set(names)
    if recorded:
        raise CliError("HSM_DIFFERS", f"recorded meanwhile: {', '.join(sorted(recorded))}")
    asyncio.run(record_destructions(shard, names))
    with Errand(target_of(shard), "destroy", names=names) as errand:
        for message in errand.messages(silence_seconds=SILENCE_SECONDS):
            name, number = message["destroyed"]
            note(f"destroyed: {name}, {number} objects")
    left = {item.name for item in _list(target_of(shard))} & set(names)
    if left:
        raise CliError(
            "HSM_DIFFERS", f"still on the token after their destruction: {', '.join(sorted(left))}"
        )
