"""Makes a fresh Rucio: schema, accounts, scopes, RSEs, distances, limits; then the samples.

    python -m lake.inside.bootstrap SETTINGS.json PARENT_PID

Waits for the database itself, so that its imports (1.3 s) run while PostgreSQL is being made.  Ends
with whoever started it, whose database is gone then.
"""

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1  # prctl(2)
_settings = Path(sys.argv[1])
ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() != int(sys.argv[2]):  # it died before that was said
    sys.exit(1)

from rucio.core import account as core_account  # noqa: E402
from rucio.core import account_limit, distance, identity, rse, scope  # noqa: E402
from rucio.db.sqla.constants import AccountType, IdentityType, RSEType  # noqa: E402
from rucio.db.sqla.session import get_engine  # noqa: E402
from rucio.db.sqla.util import (  # noqa: E402
    build_database,
    create_base_vo,
    create_root_account,
)
from sqlalchemy.exc import OperationalError  # noqa: E402

from lake import samples  # noqa: E402
from lake.inside import base, register  # noqa: E402
from lake.rses import RSES, Rse  # noqa: E402
from lake.server import ACCOUNTS  # noqa: E402

_LIMIT = 10**15  # bytes an account may keep at an RSE; a rule needs a limit to be set at all
_PATIENCE = 120.0  # seconds until the database must answer


def await_database() -> None:
    """Return when PostgreSQL takes connections."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            with get_engine().connect():
                return
        except OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def add_accounts(session: Any, issuer: str) -> None:
    """Add alice, an ordinary user, and bob, who may do what root may; give them identities."""
    for name, (username, password) in ACCOUNTS.items():
        email = f"{name}@localhost"
        if name == "root":
            continue  # Rucio's own bootstrap made it
        who = base.account(name)
        core_account.add_account(who, AccountType.USER, email, session=session)
        identity.add_account_identity(
            username, IdentityType.USERPASS, who, email, True, password, session=session
        )
        subject = f"SUB={name}-sub, ISS={issuer}"
        identity.add_account_identity(subject, IdentityType.OIDC, who, email, True, session=session)
    # The text 'true': the generic policy compares with it.
    core_account.add_account_attribute(base.account("bob"), "admin", "true", session=session)
    for scope_name, owner in samples.SCOPES.items():
        scope.add_scope(base.scope(scope_name), base.account(owner), session=session)


def add_rse(session: Any, declared: Rse, ports: dict[str, int], store: Path, fts: str) -> str:
    """Add one RSE with its protocols, attributes and limits; return its id."""
    rse_id = rse.add_rse(
        declared.name,
        deterministic=declared.deterministic,
        rse_type=RSEType.TAPE if declared.is_tape else RSEType.DISK,
        session=session,
    )
    for protocol in declared.protocols:
        local = protocol.port is None
        parameter = {
            "scheme": protocol.scheme,
            "hostname": base.HOST,
            "port": 0 if protocol.port is None else ports[protocol.port],
            "prefix": f"{store / declared.tree}/" if local else declared.prefix,
            "impl": f"rucio.rse.protocols.{protocol.implementation}",
            "domains": {domain: dict(ops) for domain, ops in protocol.domains.items()},
        }
        rse.add_protocol(rse_id, parameter, session=session)
    attributes: dict[str, Any] = {
        "fts": fts,
        "site": declared.site,
        "verify_checksum": True,
        "greedyDeletion": True,  # a deleted rule's file goes at once, not when space is short
    }
    if declared.deterministic:
        attributes["lfn2pfn_algorithm"] = "hash"
    else:
        attributes["naming_convention"] = "lake_nd"
    for key, value in attributes.items():
        rse.add_rse_attribute(rse_id, key, value, session=session)
    rse.set_rse_limits(rse_id, "MinFreeSpace", 0, session=session)
    for name in ACCOUNTS:
        account_limit.set_local_account_limit(base.account(name), rse_id, _LIMIT, session=session)
    return str(rse_id)


def add_distances(session: Any, ids: dict[str, str]) -> None:
    """Connect every pair of RSEs; those at our site are near."""
    for source, source_id in ids.items():
        for target, target_id in ids.items():
            if source != target:
                near = source.startswith("COLO") or target.startswith("COLO")
                distance.add_distance(source_id, target_id, 1 if near else 2, session=session)


def main() -> None:
    """Do it all, in one transaction after the schema."""
    settings = json.loads(_settings.read_text())
    await_database()
    build_database()
    create_base_vo()
    create_root_account()
    with base.writing() as session:
        add_accounts(session, settings["issuer"])
        store = Path(settings["store"])
        ids = {
            declared.name: add_rse(session, declared, settings["ports"], store, settings["fts_url"])
            for declared in RSES
        }
        add_distances(session, ids)
        if settings["manifest"] is not None:
            manifest = json.loads(Path(settings["manifest"]).read_text())
            register.register(session, ids, manifest, settings["ports"])


if __name__ == "__main__":
    main()
