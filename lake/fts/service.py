"""The REST interface: FTS' own paths for Rucio, ``/control/`` for tests.

Source of the answers: rucio 41.5.1 ``transfertool/fts3.py`` (what it sends and reads) and
fts-rest-flask ``controllers/jobs.py`` (the statuses).

    GET    /  /whoami                  version, identity
    GET    /jobs                       jobs that have not ended
    POST   /jobs                       submit (PUT too: FTS' own client)
    GET    /jobs/<id>[,<id>...]        state; ``?files=a,b`` adds these fields of every file
    GET    /jobs/<id>/files            every field of every file
    POST   /jobs/<id>[,<id>...]        {"params": {"priority": n}}
    DELETE /jobs/<id>[,<id>...]        cancel
    GET, POST, DELETE /control/faults  list, add, clear injections (`records.Injection`)
    POST   /control/release            let stalled transfers go on
    GET    /control/stalled?count=N&timeout=S
    GET, DELETE /control/log           ended transfers (`records.TransferRecord`)
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from lake.fts.faults import Faults
from lake.fts.jobs import BASE_ID, VO, BadSubmissionError, DuplicateJobError, Jobs
from lake.fts.records import Injection
from lake.fts.states import NOT_FOUND, NOT_MODIFIED, OK
from lake.fts.transfers import Copier, Mode

_VERSION = {"major": 3, "minor": 12, "patch": 0}

Reply = tuple[int, Any]


class FtsService(ThreadingHTTPServer):
    """The stand-in, listening on *host*:*port* (0: any free port, see `url`).

    `serve_forever` runs it; a job's threads are daemons and do not keep the process alive.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, mode: Mode) -> None:
        self.faults = Faults()
        self._copier = Copier(mode, self.faults)
        self.jobs = Jobs(self._copier.copy, self._copier.stage)
        super().__init__((host, port), _Handler)

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end: Rucio appends ``/jobs`` to it."""
        return f"http://{self.server_name}:{self.server_port}"

    def server_bind(self) -> None:
        """Bind without http.server's reverse look-up of the host name, which can take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def server_close(self) -> None:
        """Stop listening, and close the connections to the storages."""
        super().server_close()
        self._copier.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent: a client that hangs up in the middle is daily business."""


@dataclass(frozen=True)
class Call:
    """One request: *ids* is the comma-separated job ids in the path, *document* the JSON body."""

    service: FtsService
    ids: str
    query: dict[str, str]
    document: Any


Action = Callable[[Call], Reply]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body are two writes; with Nagle the second waits 40 ms for the client's ACK.
    disable_nagle_algorithm = True
    server: FtsService

    def do_GET(self) -> None:
        """Answer GET."""
        self._dispatch("GET")

    def do_POST(self) -> None:
        """Answer POST."""
        self._dispatch("POST")

    def do_PUT(self) -> None:
        """Answer PUT as POST: FTS' own client submits with PUT."""
        self._dispatch("POST")

    def do_DELETE(self) -> None:
        """Answer DELETE."""
        self._dispatch("DELETE")

    def log_message(self, format: str, *args: Any) -> None:
        """Keep no access log: Rucio's poller asks several times a second."""

    def _dispatch(self, method: str) -> None:
        # Read even if unused: with keep-alive an unread body would be taken for a request.
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        found = _find_route(method, parts.path)
        if found is None:
            self._reply(404, _message(404, "Not Found", parts.path))
            return
        action, ids = found
        try:
            document = json.loads(raw) if raw.strip() else {}
            status, answer = action(Call(self.server, ids, query, document))
        except DuplicateJobError as error:
            status, answer = 409, _message(409, "Conflict", f"Job {error} exists already")
        except (ValueError, TypeError, BadSubmissionError) as error:
            status, answer = 400, _message(400, "Bad Request", str(error))
        self._reply(status, answer)

    def _reply(self, status: int, answer: Any) -> None:
        # 304 has no body by definition; one would be read as the next answer.
        body = b"" if status == 304 else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _message(status: int, phrase: str, text: str) -> dict[str, str]:
    return {"status": f"{status} {phrase}", "message": text}


def _missing(job_id: str) -> dict[str, Any]:
    return {
        "job_id": job_id,
        "http_status": NOT_FOUND,
        "http_message": f'No job with the id "{job_id}" has been found',
    }


def _several(answers: list[dict[str, Any]]) -> Reply:
    """One answer stands alone with its own status; several are a list, 207 if one is not well."""
    if len(answers) == 1:
        return int(answers[0]["http_status"][:3]), answers[0]
    good = all(answer["http_status"] == OK for answer in answers)
    return 200 if good else 207, answers


def _split(ids: str) -> list[str]:
    return [job_id for job_id in ids.split(",") if job_id]


def _version(call: Call) -> Reply:
    return 200, {"api": _VERSION, "core": _VERSION, "schema": {"major": 8, "minor": 0, "patch": 0}}


def _whoami(call: Call) -> Reply:
    return 200, {
        "base_id": str(BASE_ID),
        "vos": [VO],
        "user_dn": "/CN=lake",
        "delegation_id": "0123456789abcdef",
        "method": "certificate",
        "roles": [],
        "level": {"transfer": "all"},
        "is_root": False,
    }


def _active(call: Call) -> Reply:
    return 200, call.service.jobs.active()


def _submit(call: Call) -> Reply:
    return 200, {"job_id": call.service.jobs.submit(call.document)}


def _status(call: Call) -> Reply:
    fields = [name for name in call.query.get("files", "").split(",") if name]
    answers = []
    for job_id in _split(call.ids):
        try:
            job, files = call.service.jobs.view(job_id)
        except KeyError:
            answers.append(_missing(job_id))
            continue
        # Rucio wants the text for a single job too.
        job["http_status"] = OK
        if fields:
            job["files"] = [{k: v for k, v in file.items() if k in fields} for file in files]
        answers.append(job)
    return _several(answers)


def _files(call: Call) -> Reply:
    try:
        return 200, call.service.jobs.view(call.ids)[1]
    except KeyError:
        return 404, _message(404, "Not Found", _missing(call.ids)["http_message"])


def _change(service: FtsService, ids: str, act: Callable[[str], bool], refusal: str) -> Reply:
    """Do *act* to each job; it returns False for a job that had ended."""
    answers = []
    for job_id in _split(ids):
        try:
            done = act(job_id)
            job, _ = service.jobs.view(job_id)
        except KeyError:
            answers.append(_missing(job_id))
            continue
        job["http_status"] = OK if done else NOT_MODIFIED
        job["http_message"] = None if done else refusal
        answers.append(job)
    return _several(answers)


def _cancel(call: Call) -> Reply:
    return _change(
        call.service, call.ids, call.service.jobs.cancel, "The job is in a terminal state"
    )


def _modify(call: Call) -> Reply:
    try:
        priority = int(call.document["params"]["priority"])
    except KeyError as error:
        raise ValueError(f"missing {error}") from error
    return _change(
        call.service,
        call.ids,
        lambda job_id: call.service.jobs.set_priority(job_id, priority),
        "The job is in a terminal state",
    )


def _list_faults(call: Call) -> Reply:
    return 200, [injection.to_json() for injection in call.service.faults.active()]


def _add_fault(call: Call) -> Reply:
    injection = Injection.from_json(call.document)
    call.service.faults.add(injection)
    return 200, injection.to_json()


def _clear_faults(call: Call) -> Reply:
    call.service.faults.clear()
    return 200, {}


def _release(call: Call) -> Reply:
    call.service.faults.release()
    return 200, {}


def _stalled(call: Call) -> Reply:
    count, seconds = int(call.query.get("count", "0")), float(call.query.get("timeout", "0"))
    return 200, call.service.faults.wait_stalled(count, seconds)


def _log(call: Call) -> Reply:
    return 200, [record.to_json() for record in call.service.jobs.log()]


def _clear_log(call: Call) -> Reply:
    call.service.jobs.clear_log()
    return 200, {}


_ROUTES: tuple[tuple[str, str, Action], ...] = (
    ("GET", r"/", _version),
    ("GET", r"/whoami", _whoami),
    ("GET", r"/jobs", _active),
    ("POST", r"/jobs", _submit),
    ("GET", r"/jobs/([^/]+)", _status),
    ("GET", r"/jobs/([^/]+)/files", _files),
    ("POST", r"/jobs/([^/]+)", _modify),
    ("DELETE", r"/jobs/([^/]+)", _cancel),
    ("GET", r"/control/faults", _list_faults),
    ("POST", r"/control/faults", _add_fault),
    ("DELETE", r"/control/faults", _clear_faults),
    ("POST", r"/control/release", _release),
    ("GET", r"/control/stalled", _stalled),
    ("GET", r"/control/log", _log),
    ("DELETE", r"/control/log", _clear_log),
)


def _find_route(method: str, path: str) -> tuple[Action, str] | None:
    """Return what answers this request and the ids in its path."""
    for route_method, pattern, action in _ROUTES:
        match = re.fullmatch(pattern, path)
        if match and route_method == method:
            return action, match.group(1) if match.groups() else ""
    return None
