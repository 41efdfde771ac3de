"""A proxy that breaks HTTP and TCP on order, to stand before Rucio or a storage.

`FaultProxy` in-process, `python -m lake.faults` from a shell, `client.FaultControl` for another
process.
"""

from lake.faults.actions import (
    Action,
    Corrupt,
    Cut,
    DropHeader,
    Fault,
    Latency,
    Refuse,
    ReplaceHeader,
    Reset,
    Stall,
    Status,
    Timeout,
)
from lake.faults.proxy import FaultProxy, Tls
from lake.faults.table import Handle, RequestRecord

__all__ = [
    "Action",
    "Corrupt",
    "Cut",
    "DropHeader",
    "Fault",
    "FaultProxy",
    "Handle",
    "Latency",
    "Refuse",
    "ReplaceHeader",
    "RequestRecord",
    "Reset",
    "Stall",
    "Status",
    "Timeout",
    "Tls",
]
