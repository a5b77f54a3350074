"""A log's beginning, and what is made again of it when a part was lost.

Each of these is a command of its own: nothing of it happens at a start.
"""

from __future__ import annotations

from strongroom.tlog.checkpoint import Checkpoint, VerifierKey
from strongroom.tlog.errors import CheckpointInvalidError, VerificationError
from strongroom_auditlog import opening
from strongroom_auditlog.checkpoint import Signer
from strongroom_auditlog.config import Config, HsmConfig
from strongroom_auditlog.errors import ArchiveError, StartRefusedError
from strongroom_auditlog.hsm_key import HsmKey, HsmKeySettings
from strongroom_auditlog.keys import create_signing_key, load_signer, write_verifier_key
from strongroom_auditlog.last_checkpoint import LastCheckpoint, SqliteCheckpointStore
from strongroom_auditlog.opening import create_log
from strongroom_auditlog.owner_lock import OwnerLock
from strongroom_auditlog.retention.store import configured_archive, open_store
from strongroom_auditlog.scan import scan_runs
from strongroom_auditlog.state import State
from strongroom_auditlog.tiles import LogFiles
from strongroom_auditlog.verify import verify_log

__all__ = ["initialize", "open_signer", "rebuild_last_checkpoint", "rebuild_state"]


def open_signer(config: Config, *, create: bool = False) -> tuple[Signer, HsmKey | None]:
    """Open the signing key, in its file or its token.

    Args:
        config: Says which.
        create: Make the key when it is not there.

    Returns:
        The signer, and the key in the token, to be closed when the log is.

    Raises:
        StartRefusedError: The key is not there, or cannot be used.
        OSError: It was to be made, and could not be written.
    """
    log = config.log
    if log.hsm is not None:
        hsm_key = HsmKey.open(_settings(log.hsm), create=create)
        try:
            return Signer(log.origin, hsm_key), hsm_key
        except CheckpointInvalidError as exc:
            hsm_key.close()
            raise StartRefusedError(str(exc)) from exc
    if log.private_key_file is None:
        raise StartRefusedError("exactly one of private_key_file and [log.hsm] is needed")
    if create and not log.private_key_file.exists():
        return (
            create_signing_key(
                origin=log.origin,
                private_key_file=log.private_key_file,
                verifier_key_file=config.verifier_key_file,
            ),
            None,
        )
    return load_signer(origin=log.origin, private_key_file=log.private_key_file), None


def _settings(config: HsmConfig) -> HsmKeySettings:
    return HsmKeySettings(
        module=config.module,
        token_label=config.token_label,
        pin_file=config.pin_file,
        key_label=config.key_label,
        module_parameters=config.module_parameters,
        module_environment=config.module_environment,
    )


def initialize(config: Config) -> VerifierKey:
    """Make an empty log: signing key (unless there is one), state, checkpoint of size 0.

    Returns:
        The verifier key, which is also in `config.verifier_key_file`.

    Raises:
        StartRefusedError: There is a log or a state already, or they cannot be written.
    """
    log = config.log
    paths = [log.state, config.verifier_key_file, config.last_checkpoint_file]
    if log.private_key_file is not None:
        paths.append(log.private_key_file)
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        signer, hsm_key = open_signer(config, create=True)
        try:
            write_verifier_key(config.verifier_key_file, signer.verifier_key)
            create_log(log.directory, log.state, config.last_checkpoint_file, signer)
        finally:
            if hsm_key is not None:
                hsm_key.close()
    except OSError as exc:
        raise StartRefusedError(f"{exc.filename}: {exc.strerror}") from exc
    return signer.verifier_key


def rebuild_state(config: Config) -> Checkpoint:
    """Make the state of a log again from its files and its last checkpoint.

    Records that were taken after the last checkpoint are not in it; nobody was told that
    they were, and the shards send them again.

    Returns:
        The checkpoint whose tree the state is at.

    Raises:
        StartRefusedError: There is a state, the last checkpoint is missing, or the files
            do not lead to it.
    """
    key = _verifier_key(config)
    directory = config.log.directory
    lock = OwnerLock(directory, config.log.state)
    try:
        if config.log.state.exists():
            raise StartRefusedError(
                f"{config.log.state}: exists; move it away to have it made again"
            )
        store = SqliteCheckpointStore.open(config.last_checkpoint_file)
        try:
            last = store.load()
        finally:
            store.close()
        checkpoint = _verify(config, key, last)
        archive = configured_archive(config.archive.location)
        scanned = scan_runs(LogFiles(directory), last.size, archive)
        State.create(
            config.log.state,
            origin=last.origin,
            size=last.size,
            root=last.root,
            runs=scanned.runs,
            positions=scanned.positions,
        )
    except OSError as exc:
        raise StartRefusedError(f"{exc.filename}: {exc.strerror}") from exc
    except (VerificationError, ArchiveError) as exc:
        raise StartRefusedError(f"{directory}: {exc}; restore the newest log") from exc
    finally:
        lock.release()
    return checkpoint


def rebuild_last_checkpoint(config: Config) -> Checkpoint:
    """Make the store of the last checkpoint again from log and state, verified in full.

    Only a person can know that log and state are the newest: that is what the store was
    for. With the wrong ones the log forks.

    Returns:
        The checkpoint that is now the last one.

    Raises:
        StartRefusedError: There is a store, log and state do not fit, or the log does not
            verify.
    """
    signer, hsm_key = open_signer(config)
    lock = OwnerLock(config.log.directory, config.log.state)
    try:
        state = State.open(config.log.state)
        try:
            files = LogFiles(config.log.directory)
            edge, _ = opening.signed_edge(files, state, signer)
            opening.check_published(files, signer, edge.size, edge.root())
        finally:
            state.close()
        checkpoint = signer.sign(edge.size, edge.root())
        last = opening.last_of(checkpoint)
        _verify(config, signer.verifier_key, last)
        SqliteCheckpointStore.create(config.last_checkpoint_file, last)
    except OSError as exc:
        raise StartRefusedError(f"{exc.filename}: {exc.strerror}") from exc
    except (VerificationError, ArchiveError) as exc:
        raise StartRefusedError(f"{config.log.directory}: {exc}") from exc
    finally:
        lock.release()
        if hsm_key is not None:
            hsm_key.close()
    return checkpoint


def _verifier_key(config: Config) -> VerifierKey:
    signer, hsm_key = open_signer(config)
    if hsm_key is not None:
        hsm_key.close()
    return signer.verifier_key


def _verify(config: Config, key: VerifierKey, last: LastCheckpoint) -> Checkpoint:
    """Verify the whole log against `last`, and the published checkpoint with it."""
    published = LogFiles(config.log.directory).read_checkpoint()
    location = config.archive.location
    verified = verify_log(
        config.log.directory,
        key,
        checkpoint=last.note,
        older_checkpoints=[] if published is None else [published],
        archive=None if location is None else open_store(location),
    )
    if (verified.checkpoint.size, verified.checkpoint.root) != (last.size, last.root):
        raise StartRefusedError("the last checkpoint is not the one that its note says: damaged")
    return verified.checkpoint
