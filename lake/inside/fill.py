"""Fills a scope with many DIDs for benchmarks, straight into the tables.

    python -m lake.inside.fill SCOPE DATASETS LOOSE BIG [--both-rse]

No bytes are stored and no rules or locks are made; RSE usage is not counted.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any

_arguments = sys.argv[1:]

from rucio.core import scope as core_scope  # noqa: E402
from rucio.core.rse import get_rse_id  # noqa: E402
from rucio.db.sqla import models  # noqa: E402
from rucio.db.sqla.constants import DIDAvailability, DIDType, ReplicaState  # noqa: E402
from sqlalchemy import insert  # noqa: E402

from lake.inside import base  # noqa: E402

_BATCH = 5000  # rows an insert; more gains nothing
BIG = "big"  # the dataset of many files
ALL = "all"  # the container of every dataset
_Row = dict[str, Any]


def _batches(rows: Iterable[_Row]) -> Iterator[list[_Row]]:
    iterator = iter(rows)
    while batch := list(islice(iterator, _BATCH)):
        yield batch


class Filler:
    """Makes rows for one scope and inserts them."""

    def __init__(self, session: Any, scope_name: str) -> None:
        """Add the scope.  Raises Rucio's Duplicate where it exists."""
        self._session = session
        self._owner = base.account("root")
        self._scope = base.scope(scope_name)
        self._now = datetime.now(UTC).replace(tzinfo=None)  # Rucio's columns are naive UTC
        core_scope.add_scope(self._scope, self._owner, session=session)

    def add_files(self, prefix: str, count: int, dataset: str | None, rses: list[str]) -> None:
        """Add *count* files, members of *dataset*, with replicas at *rses*."""
        files = [
            {
                "name": f"{prefix}{number:06d}.dat",
                "bytes": 1000 + number,
                "adler32": f"{number + 1:08x}",
                "md5": f"{number:032x}",
            }
            for number in range(count)
        ]
        self._insert(models.DataIdentifier, (self._did(DIDType.FILE, file) for file in files))
        ids = [get_rse_id(name, session=self._session) for name in rses]
        replicas = ({**self._common(file), "rse_id": i} for i in ids for file in files)
        state = {"state": ReplicaState.AVAILABLE, "lock_cnt": 0}
        self._insert(models.RSEFileAssociation, ({**row, **state} for row in replicas))
        if dataset is not None:
            self._attach(dataset, DIDType.DATASET, files, DIDType.FILE)

    def add_collection(self, filename: str, kind: Any, files: int = 0) -> None:
        """Add a dataset closed over *files* of add_files(), or an open container."""
        facts: _Row = {"name": filename}
        if kind == DIDType.DATASET:
            total = 1000 * files + files * (files - 1) // 2
            facts |= {"is_open": False, "length": files, "bytes": total}
        self._insert(models.DataIdentifier, [self._did(kind, facts)])

    def add_datasets(self, count: int) -> None:
        """Add *count* empty datasets, all in the container ALL."""
        self.add_collection(ALL, DIDType.CONTAINER)
        facts = {"is_open": False, "length": 0, "bytes": 0}
        names = [{"name": f"d{number:06d}"} for number in range(count)]
        rows = (self._did(DIDType.DATASET, {**name, **facts}) for name in names)
        self._insert(models.DataIdentifier, rows)
        self._attach(ALL, DIDType.CONTAINER, names, DIDType.DATASET)

    def _attach(self, parent: str, kind: Any, children: list[_Row], child_kind: Any) -> None:
        common = {"name": parent, "did_type": kind, "child_type": child_kind}
        rows = (
            {
                **self._common(child),
                **common,
                "child_scope": self._scope,
                "child_name": child["name"],
            }
            for child in children
        )
        self._insert(models.DataIdentifierAssociation, rows)

    def _common(self, facts: _Row) -> _Row:
        return {"scope": self._scope, "created_at": self._now, "updated_at": self._now, **facts}

    def _did(self, kind: Any, facts: _Row) -> _Row:
        return {
            "account": self._owner,
            "did_type": kind,
            "is_open": None if kind == DIDType.FILE else True,
            "monotonic": False,
            "hidden": False,
            "obsolete": False,
            "availability": DIDAvailability.AVAILABLE,
            "suppressed": False,
            "purge_replicas": True,
            **self._common(facts),
        }

    def _insert(self, model: Any, rows: Iterable[_Row]) -> None:
        for batch in _batches(rows):
            self._session.execute(insert(model), batch)


def main() -> None:
    """Fill in one transaction."""
    both = "--both-rse" in _arguments
    scope_name, *numbers = [a for a in _arguments if not a.startswith("-")]
    datasets, loose, big = map(int, numbers)
    rses = ["REM1", "COLO"] if both else ["REM1"]
    start = time.monotonic()
    with base.writing() as session:
        filler = Filler(session, scope_name)
        filler.add_datasets(datasets)
        filler.add_files("loose", loose, None, rses)
        filler.add_collection(BIG, DIDType.DATASET, big)
        filler.add_files("b", big, BIG, rses)
        # Without statistics PostgreSQL scans whole tables: a bulkmeta takes 1.7 s, not 0.25.
        session.connection().exec_driver_sql("ANALYZE")
    print(f"filled {scope_name} in {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main()
