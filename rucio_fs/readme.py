"""The text of README.txt at the top of the mount."""

from __future__ import annotations

from rucio_fs.availability import Site

_TEXT = """\
This directory is the Rucio data lake {host}, mounted by rucio-fs.

A scope is a directory; in it are its containers, datasets and files, nested as in Rucio.
{read_only} A "/" in a name is written %2F. Any DID of a scope answers by
name, also one that the listing leaves out.

    ls -l SCOPE                                what a scope holds
    cp -r SCOPE/CONTAINER ~/                   copy, keeping the containers as directories
    getfattr -d SCOPE/DATASET/FILE             all that Rucio knows of a file, and where it is
    getfattr -n user.rucio.error SCOPE/.../F   why a file cannot be read now
{more}    cat .rucio/status                          is Rucio there, what is cached (JSON)

{site}
What is listed is remembered for a while. To have Rucio asked again: rucio-fs refresh PATH.
When something is slow or fails, look at .rucio/status first: "rucio": "state".
"""

_BRINGING = """\
    rucio-fs get -r SCOPE/DATASET              have it all brought to this site
    rucio-fs status                            what is on its way, and what went wrong
    tail -f .rucio/events                      the same, as it happens
"""

_SAVING = """\
    cp -r DIRECTORY scratch/SCOPE/             save it: it becomes a dataset in Rucio
    rucio-fs uploads --wait                    return when all that was saved is in the lake
"""


def text(host: str, site: Site, *, brings: bool, streams: bool, saves: bool) -> str:
    """*brings*: opening a file that is elsewhere makes a rule; *streams*: it is read there;
    *saves*: there is a scratch.
    """
    if brings and streams:
        here = (
            "A file that is elsewhere is read where it is, while a replication rule brings it to\n"
            f"this site ({site.rse or site.name}); after that its copy is read here."
        )
    elif brings:
        here = (
            "Opening a file that is elsewhere makes a replication rule and waits until its copy is"
            f"\nat this site ({site.rse or site.name})."
        )
    elif site.rse or site.name:
        here = (
            f"Files at this site ({site.rse or site.name}) are read from its storage directly,\n"
            "others where they are, over WebDAV."
        )
    else:
        here = "Files are read where they are, over WebDAV."
    return _TEXT.format(
        host=host,
        site=here,
        read_only="All but scratch/ is read-only." if saves else "Everything here is read-only.",
        more=(_BRINGING if brings else "") + (_SAVING if saves else ""),
    )
