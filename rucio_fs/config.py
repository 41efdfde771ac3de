"""What can be set, with its default and the reason for it.

One frozen section per component; a component gets its section, never the whole.  Sizes are bytes
and times are seconds; `units` reads what people write.  Every key is explained in
docs/CONFIGURATION.md.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from rucio_fs.units import (
    DAY,
    GIB,
    MIB,
    MINUTE,
    Bytes,
    Count,
    Files,
    Flag,
    Label,
    Names,
    Number,
    OptionalPath,
    OptionalText,
    OptionalUrl,
    Paths,
    Prefixes,
    Priority,
    Seconds,
    Umask,
    UserId,
    Wait,
    choice,
)


@dataclass(frozen=True, slots=True)
class MountConfig:
    """How the tree looks to the kernel and to the users of this machine."""

    uid: UserId = field(default_factory=os.getuid)  # who mounts owns what is seen
    gid: UserId = field(default_factory=os.getgid)  # as for uid
    umask: Umask = 0  # the tree is read-only as it is
    allow_other: Flag = False  # every reader gets the mount's rights in Rucio: never by accident
    fsname: Label = "rucio"  # what `df` and `mount` show as the source
    xattrs: Flag = True  # user.rucio.*; cost nothing until somebody asks for one
    read_ahead: Bytes = MIB  # 1.5 times the cold reads of the kernel's 128 KiB; more adds nothing
    max_tasks: Count = 5000  # requests at once; one that waits costs 30 KB, and opens wait long
    timeout_local: Wait = MINUTE  # a busy disk array recovers in less; a dead NFS server never does


@dataclass(frozen=True, slots=True)
class RucioConfig:
    """Which Rucio and how long to wait for it; all else is said in rucio.cfg."""

    config_file: OptionalPath = None  # None: where rucio-clients looks, $RUCIO_CONFIG first
    account: OptionalText = None  # None: what rucio.cfg or $RUCIO_ACCOUNT says
    host: OptionalUrl = None  # None: rucio_host of rucio.cfg
    auth_host: OptionalUrl = None  # None: auth_host of rucio.cfg
    connections: Count = 8  # concurrent calls; one Rucio server process answers few at a time
    timeout: Wait = 10.0  # silence of the server; rucio-clients' own 600 s would hang `ls`
    deadline: Wait = 30.0  # one question with its retries; what a person waits before Ctrl-C
    listing_deadline: Wait = 5 * MINUTE  # a dataset of a million files streams for minutes


@dataclass(frozen=True, slots=True)
class ScopesConfig:
    """Which scopes the mount shows."""

    allow: Names = ("*",)  # the account's permissions already say what may be read
    deny: Names = ()  # nothing is hidden unless somebody says so
    listing: Annotated[Literal["top", "all"], choice("top", "all")] = "top"  # what has no parent


@dataclass(frozen=True, slots=True)
class SiteConfig:
    """Where this machine is, and how the storage beside it is mounted."""

    name: OptionalText = None  # None: $SITE_NAME, as rucio-clients do
    rse: OptionalText = None  # None: no storage here, everything is remote
    paths: Prefixes = field(default_factory=dict)  # empty: only file:// PFNs are local
    roots: Paths = ()  # empty: a catalogue entry may name any path that the mount may read


@dataclass(frozen=True, slots=True)
class OpeningConfig:
    """What opening a file does when it is not at this site."""

    policy: Annotated[
        Literal["replicate", "stream", "both"], choice("replicate", "stream", "both")
    ] = "both"  # nobody waits, and what is used is soon read at the speed of the site
    wait: Seconds = (
        10 * MINUTE
    )  # most transfers of a file take less; a batch job can wait that long
    max_waiting: Count = 600  # far below mount.max_tasks, so that everything else goes on
    recall: Flag = False  # tapes are mounted for those who ask, not for whoever opens a file
    rule_min_size: Bytes = MIB  # with "both": a rule for less costs more than reading it again


@dataclass(frozen=True, slots=True)
class StreamingConfig:
    """Reading files from storages elsewhere, over WebDAV."""

    connections: Count = 8  # requests at once to one storage; more gave nothing, at 20 ms either
    total_connections: Count = 32  # to all storages together
    window: Bytes = 64 * MIB  # read ahead of one sequential reader; 25 ms at 20 Gbit/s
    memory: Bytes = 128 * MIB  # for what is on its way, of all files; readers share it
    timeout: Wait = 10.0  # silence of a storage, after which the next one is asked
    deadline: Wait = MINUTE  # one read with all replicas and repetitions
    idle: Seconds = 20.0  # connections stay open that long; a new one costs up to four round trips


@dataclass(frozen=True, slots=True)
class DiskcacheConfig:
    """Bytes that were streamed, kept on this machine's disk."""

    dir: OptionalPath = None  # None: `default_cache`, one for each mountpoint
    size: Bytes = 10 * GIB  # a few of the files people read again and again; 0: none are kept
    min_free: Bytes = 2 * GIB  # the disk is the machine's, and a full one stops everybody


@dataclass(frozen=True, slots=True)
class ScratchConfig:
    """Where files are saved that belong in the lake."""

    enabled: Flag = False  # a mount is for reading unless somebody says so
    dir: OptionalPath = None  # None: `default_scratch`, one for each mountpoint
    rse: OptionalText = None  # None: nothing is uploaded but what says where to
    in_place: Flag = False  # most machines mount no storage that they could save to
    journal_dir: OptionalPath = None  # None: as `dir`; in place that is the storage's
    rule: OptionalText = None  # None: the storage it was uploaded to keeps it
    lifetime: Seconds = 0.0  # of that rule; 0: for ever, since what is saved is to be kept
    delay: Seconds = 5.0  # editors and archives write a file in several goes
    longest_delay: Wait = 10 * MINUTE  # a directory that is always written to is uploaded, too
    connections: Count = 4  # files on their way at once; small ones wait for answers, not bytes
    verify: Annotated[Literal["read", "checksum", "size"], choice("read", "checksum", "size")] = (
        "read"  # nothing is registered that was not proved
    )
    timeout: Wait = MINUTE  # a storage reads a large file before it tells its checksum
    keep: Seconds = DAY  # who has just written something reads it again, and soon no more
    min_free: Bytes = 2 * GIB  # of its disk, for what is still to come
    stop_timeout: Seconds = 10.0  # what is under way ends, or begins anew with the next mount

    @property
    def is_wanted(self) -> bool:
        """Whether the mount has a scratch; who names a storage for it need not say so."""
        return self.enabled or self.rse is not None


@dataclass(frozen=True, slots=True)
class StoragesConfig:
    """What storages elsewhere are shown, and how theirs is checked."""

    token_file: OptionalPath = None  # None: where WLCG's bearer token discovery looks
    tokens: Files = field(default_factory=dict)  # for storages that take another one
    x509_proxy: OptionalPath = None  # None: $X509_USER_PROXY
    proxies: Files = field(default_factory=dict)  # for storages that take another one
    ca: OptionalPath = None  # None: $X509_CERT_DIR, else the system's
    trusted: Names = ()  # hosts that a redirect may take the token to; its own always


@dataclass(frozen=True, slots=True)
class RulesConfig:
    """The replication rules that are made, and how closely they are watched."""

    rse_expression: OptionalText = None  # None: site.rse
    account: OptionalText = None  # None: the account of the mount
    lifetime: Seconds = 7 * DAY  # a working week; 0: for ever.  Extended while a file is in use
    activity: OptionalText = None  # None: Rucio's default, "User Subscriptions"
    priority: Priority = 3  # Rucio's default
    purge_replicas: Flag = False  # the RSE's own cleaning knows best when space is needed
    ask_approval: Flag = False  # only where a site wants to see each request
    asynchronous: Flag = False  # a rule on a huge container may be too slow to be made at once
    source_rse_expression: OptionalText = None  # None: from wherever a replica is
    weight: OptionalText = None  # None: an expression of one RSE leaves no choice
    notify: Annotated[str, choice("no", "done", "closed", "progress")] = (
        "no"  # no mail for each open
    )
    comment: OptionalText = None  # None: names this host and mount
    grouping: Number = 0  # opens of one dataset that become a rule on all of it; 0: never
    grouping_window: Wait = (
        10.0  # s in which they have to come; a loop over files opens many a second
    )
    poll: Wait = 1.0  # between two looks at what is on its way; two requests each
    slowest_poll: Wait = 10.0  # what has been waited for for minutes needs no look every second
    url: OptionalText = None  # None: the rule in Rucio's REST interface
    traces: Flag = True  # popularity and last access are what sites clean by


@dataclass(frozen=True, slots=True)
class ScannersConfig:
    """Who gets no rules made: programs that open everything, and users who open too much."""

    programs: Names = (
        "updatedb", "mlocate", "plocate", "locate", "tracker-*", "baloo_file*", "baloorunner",
        "recoll*", "tumblerd", "*thumbnailer*", "gvfsd-*", "clamscan", "clamd", "freshclam",
        "restic", "borg", "duplicity", "bacula-fd", "nautilus", "dolphin", "thunar",
    )  # fmt: skip # indexers, thumbnailers, virus scanners, backups, file managers' previews
    rate: Number = (
        2000  # files that one user may have brought by opening them in one window; 0: any
    )
    window: Wait = 10 * MINUTE  # a job opens hundreds at its start; a `grep -r` goes on for ever


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """How much of the catalogue is remembered and how long it counts."""

    size: Bytes = 64 * MIB  # 160,000 members of directories at 400 bytes each
    scopes_ttl: Seconds = 5 * MINUTE  # scopes are made by administrators, a few a week
    open_ttl: Seconds = MINUTE  # an open collection grows while people watch it
    closed_ttl: Seconds = DAY  # a closed collection does not change, but can be deleted
    file_ttl: Seconds = DAY  # a file DID is immutable, but can be deleted
    missing_ttl: Seconds = 10.0  # what was not there may be registered any moment
    replicas_ttl: Seconds = 30.0  # replicas come and go with rules
    now_ttl: Seconds = 2.0  # attributes tell the truth of now, and `getfattr -d` asks 20 in a row
    stale_after: Seconds = 3.0  # wait for a refresh before the old answer is given instead
    stale_retry: Seconds = 10.0  # an old answer counts this long before Rucio is asked again


@dataclass(frozen=True, slots=True)
class LogConfig:
    """What is logged and where."""

    level: Annotated[str, choice("debug", "info", "warning", "error")] = "info"  # quiet when well
    file: OptionalPath = None  # None: stderr in the foreground, `default_log_file` else


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration.  *file* is the rucio-fs.toml it was read from, if any."""

    mount: MountConfig = field(default_factory=MountConfig)
    rucio: RucioConfig = field(default_factory=RucioConfig)
    scopes: ScopesConfig = field(default_factory=ScopesConfig)
    site: SiteConfig = field(default_factory=SiteConfig)
    opening: OpeningConfig = field(default_factory=OpeningConfig)
    streaming: StreamingConfig = field(default_factory=StreamingConfig)
    diskcache: DiskcacheConfig = field(default_factory=DiskcacheConfig)
    scratch: ScratchConfig = field(default_factory=ScratchConfig)
    storages: StoragesConfig = field(default_factory=StoragesConfig)
    rules: RulesConfig = field(default_factory=RulesConfig)
    scanners: ScannersConfig = field(default_factory=ScannersConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    log: LogConfig = field(default_factory=LogConfig)
    file: Path | None = None


def with_log_file(config: Config, file: Path) -> Config:
    """Copy of *config* that logs to *file*."""
    return replace(config, log=replace(config.log, file=file))


def may_stream(config: Config) -> bool:
    """Whether files are ever read where they are."""
    brings = config.rules.rse_expression is not None or config.site.rse is not None
    return config.opening.policy != "replicate" or not brings
