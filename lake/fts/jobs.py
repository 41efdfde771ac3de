"""Jobs as FTS keeps them: submitted documents become files with states, threads move them on.

Knows nothing of HTTP requests (`service`) nor of storages (`transfers`).
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lake.fts.cancelling import Cancellation
from lake.fts.connections import Endpoint
from lake.fts.records import TransferRecord
from lake.fts.states import (
    CANCEL_REASON,
    JobType,
    State,
    TransferCanceledError,
    TransferError,
    fts_time,
)
from lake.fts.transfers import Order, Outcome

# What Rucio computes a deterministic job id from, given by GET /whoami.
BASE_ID = uuid.UUID("01874efb-4735-4595-bc9c-591aef8240c9")
VO = "lake"

CopyFunction = Callable[[Order, Outcome, Cancellation], None]
StageFunction = Callable[[Order, Cancellation], None]


class BadSubmissionError(ValueError):
    """The submitted document is not a job."""


class DuplicateJobError(Exception):
    """A job with this deterministic id has been submitted before."""


@dataclass
class File:
    """One source and one destination; what FTS calls a file or a transfer.

    Keys of *metadata* are the submitter's (Rucio: request_id, scope, name, ...) and come back
    untouched, but for ``dst_file``.  Times are FTS texts or None.
    """

    file_id: int
    file_index: int
    order: Order
    metadata: dict[str, Any]
    activity: str | None
    state: State = State.SUBMITTED
    reason: str = ""
    start_time: str | None = None
    finish_time: str | None = None
    staging_start: str | None = None
    staging_finished: str | None = None
    size: int | None = None

    def view(self) -> dict[str, Any]:
        """Return it as FTS shows it.  Tokens are never shown."""
        return {
            "file_id": self.file_id,
            "file_index": self.file_index,
            "file_state": self.state,
            "source_surl": self.order.source.url,
            "dest_surl": self.order.destination.url,
            "file_metadata": self.metadata,
            "reason": self.reason,
            "start_time": self.start_time,
            "finish_time": self.finish_time,
            "staging_start": self.staging_start,
            "staging_finished": self.staging_finished,
            "filesize": self.size,
            "user_filesize": self.order.size,
            "checksum": f"{self.order.algorithm.upper()}:{self.order.checksum}"
            if self.order.checksum
            else None,
            "activity": self.activity,
        }


@dataclass
class Job:
    """A set of files submitted together."""

    job_id: str
    job_type: JobType
    files: list[File]
    params: Mapping[str, Any]
    priority: int
    state: State = State.SUBMITTED
    reason: str | None = None
    submit_time: str = field(default_factory=fts_time)
    job_finished: str | None = None
    cancellation: Cancellation = field(default_factory=Cancellation)

    @property
    def from_tape(self) -> bool:
        """True if the sources have to be brought online: Rucio gives the seconds to wait for it."""
        return int(self.params.get("bring_online") or 0) > 0

    def view(self) -> dict[str, Any]:
        """Return it as FTS shows it, without its files."""
        return {
            "job_id": self.job_id,
            "job_state": self.state,
            "job_type": self.job_type,
            "job_metadata": self.params.get("job_metadata") or {},
            "submit_time": self.submit_time,
            "job_finished": self.job_finished,
            "priority": self.priority,
            "reason": self.reason,
            "vo_name": VO,
        }


class Jobs:
    """All jobs of one service.  Safe from any thread; every wait is in a job's own threads."""

    def __init__(self, copy: CopyFunction, stage: StageFunction, max_active: int = 64) -> None:
        self._copy = copy
        self._stage = stage
        # More than any test stalls at once: a stalled transfer holds its slot, as in FTS.
        self._slots = threading.Semaphore(max_active)
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._log: list[TransferRecord] = []

    def submit(self, document: object) -> str:
        """Start the job described by *document* and return its id.

        Raises: BadSubmissionError; DuplicateJobError.
        """
        job = build_job(document)
        with self._lock:
            if job.job_id in self._jobs:
                raise DuplicateJobError(job.job_id)
            self._jobs[job.job_id] = job
        # Independent files go side by side, the others one after the other.
        groups = [[f] for f in job.files] if job.job_type is JobType.REGULAR else [job.files]
        for group in groups:
            name = f"fts-{job.job_id[:8]}"
            threading.Thread(target=self._run, args=(job, group), name=name, daemon=True).start()
        return job.job_id

    def view(self, job_id: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return a job and its files as FTS shows them.  Raises: KeyError."""
        with self._lock:
            job = self._jobs[job_id]
            return job.view(), [file.view() for file in job.files]

    def active(self) -> list[dict[str, Any]]:
        """Return the jobs that have not ended."""
        with self._lock:
            return [job.view() for job in self._jobs.values() if job.state.is_running]

    def cancel(self, job_id: str) -> bool:
        """Cancel a job; False if it had ended already.  Raises: KeyError."""
        with self._lock:
            job = self._jobs[job_id]
            if not job.state.is_running:
                return False
            job.state, job.reason, job.job_finished = State.CANCELED, CANCEL_REASON, fts_time()
            for file in job.files:
                if file.state.is_running:
                    file.state, file.reason = State.CANCELED, CANCEL_REASON
                    file.finish_time = fts_time()
        job.cancellation.cancel()
        return True

    def set_priority(self, job_id: str, priority: int) -> bool:
        """Note a priority, 1 to 5; False if the job had ended.  It does not change the order.

        Raises: KeyError.
        """
        with self._lock:
            job = self._jobs[job_id]
            if not job.state.is_running:
                return False
            job.priority = priority
            return True

    def log(self) -> list[TransferRecord]:
        """Return the copies that have ended, in the order they ended."""
        with self._lock:
            return list(self._log)

    def clear_log(self) -> None:
        """Forget the copies that have ended; jobs stay."""
        with self._lock:
            self._log.clear()

    def _run(self, job: Job, files: list[File]) -> None:
        for file in files:
            with self._lock:
                if job.state is State.CANCELED:
                    return
                if not _is_due(job, file):
                    continue
            self._transfer(job, file)
        with self._lock:
            _settle(job)

    def _transfer(self, job: Job, file: File) -> None:
        outcome, state, reason = Outcome(), State.FINISHED, ""
        started, clock = time.time(), time.monotonic()
        try:
            if job.from_tape:
                self._bring_online(job, file)
            with self._lock:
                _check_wanted(job)
                job.state = file.state = State.ACTIVE
                file.start_time = fts_time()
            with self._slots:
                job.cancellation.check()
                self._copy(file.order, outcome, job.cancellation)
        except TransferCanceledError:
            state, reason = State.CANCELED, CANCEL_REASON
        except TransferError as error:
            state, reason = State.FAILED, str(error)
        except Exception as error:  # a bug here must not leave a file ACTIVE for ever
            state, reason = State.FAILED, f"TRANSFER [70] {error!r}"
        with self._lock:
            if job.state is not State.CANCELED:
                file.state, file.reason, file.size = state, reason, outcome.size
                file.finish_time = fts_time()
                if outcome.found is not None:
                    file.metadata["dst_file"] = dict(outcome.found)
            self._log.append(
                TransferRecord(
                    job_id=job.job_id,
                    file_id=file.file_id,
                    source=file.order.source.url,
                    destination=file.order.destination.url,
                    state=state,
                    reason=reason,
                    via=outcome.via,
                    size=outcome.size,
                    started=started,
                    seconds=time.monotonic() - clock,
                    faults=outcome.faults,
                )
            )

    def _bring_online(self, job: Job, file: File) -> None:
        """Stage a file.  It takes no slot: a tape library has its own."""
        with self._lock:
            _check_wanted(job)
            file.state = State.STAGING
            if job.state is not State.ACTIVE:  # as long as no other file has come so far
                job.state = State.STAGING
            file.staging_start = fts_time()
        self._stage(file.order, job.cancellation)
        with self._lock:
            file.staging_finished = fts_time()


def build_job(document: object) -> Job:
    """Turn the JSON that FTS takes at ``POST /jobs`` into a job.  Raises: BadSubmissionError.

    Source: ``_file_from_transfer`` and ``build_job_params`` in rucio 41.5.1.
    """
    try:
        return _build_job(document)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise BadSubmissionError(f"Invalid submission: {error!r}") from error


def _build_job(document: Any) -> Job:
    params = document.get("params") or {}
    transfers = document["files"]
    if not transfers:
        raise ValueError("no files")
    if params.get("multihop"):
        job_type = JobType.MULTI_HOP
    elif any(len(transfer["sources"]) > 1 for transfer in transfers):
        job_type = JobType.MULTIPLE_REPLICA
        if len(transfers) > 1:
            raise ValueError("several sources are for jobs of one file")
    else:
        job_type = JobType.REGULAR
    files: list[File] = []
    for index, transfer in enumerate(transfers):
        is_last = index == len(transfers) - 1
        overwrite = bool(params.get("overwrite") or (params.get("overwrite_hop") and not is_last))
        tokens = transfer.get("source_tokens") or [None] * len(transfer["sources"])
        target_token = (transfer.get("destination_tokens") or [None])[0]
        target = Endpoint(transfer["destinations"][0], target_token)
        for url, token in zip(transfer["sources"], tokens, strict=True):
            order = _order(Endpoint(url, token), target, transfer, params, overwrite=overwrite)
            metadata = dict(transfer.get("metadata") or {})
            files.append(File(len(files) + 1, index, order, metadata, transfer.get("activity")))
    if not files:
        raise ValueError("no sources")
    if job_type is not JobType.REGULAR:
        # FTS keeps what it may never need as NOT_USED until its turn comes.
        for file in files[1:]:
            file.state = State.NOT_USED
    priority = int(params.get("priority") or 3)
    return Job(_job_id(params), job_type, files, params, priority)


def _order(
    source: Endpoint,
    target: Endpoint,
    transfer: Mapping[str, Any],
    params: Mapping[str, Any],
    *,
    overwrite: bool,
) -> Order:
    algorithm, _, checksum = (transfer.get("checksum") or "").lower().partition(":")
    verify = params.get("verify_checksum") or "none"
    if verify is True:
        verify = "both"
    return Order(
        source=source,
        destination=target,
        size=transfer.get("filesize"),
        algorithm=algorithm or "adler32",
        checksum=checksum or None,
        verify_source=verify in ("both", "source"),
        verify_target=verify in ("both", "target"),
        overwrite=overwrite,
    )


def _job_id(params: Mapping[str, Any]) -> str:
    if params.get("id_generator") == "deterministic":
        return str(uuid.uuid5(uuid.uuid5(BASE_ID, VO), params["sid"]))
    return str(uuid.uuid4())


def _check_wanted(job: Job) -> None:
    """Raise TransferCanceledError for a job that is cancelled: its state must not change again."""
    if job.state is State.CANCELED:
        raise TransferCanceledError


def _is_due(job: Job, file: File) -> bool:
    """Whether *file* of a chain or a choice is still wanted, seen what became of those before."""
    states = {other.state for other in job.files if other.file_id < file.file_id}
    if job.job_type is JobType.MULTI_HOP:
        return states <= {State.FINISHED}
    if job.job_type is JobType.MULTIPLE_REPLICA:
        return State.FINISHED not in states
    return True


def _settle(job: Job) -> None:
    """Give *job* its final state once no file can change any more."""
    states = {file.state for file in job.files}
    if job.state is State.CANCELED or any(state.is_running for state in states):
        return
    if job.job_type is JobType.MULTIPLE_REPLICA:
        job.state = State.FINISHED if State.FINISHED in states else State.FAILED
    elif states == {State.FINISHED}:
        job.state = State.FINISHED
    elif State.FINISHED in states and job.job_type is JobType.REGULAR:
        job.state = State.FINISHEDDIRTY
    else:
        job.state = State.FAILED
    if job.state is not State.FINISHED:
        job.reason = (
            "One or more files failed. Please have a look at the details for more information"
        )
    job.job_finished = fts_time()
