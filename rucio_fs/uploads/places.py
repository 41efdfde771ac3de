"""Where RSEs are mounted on this machine, and which PFN a path of theirs has there.

A path's PFN follows from the RSE's own protocols: its ``file://`` protocol or the site's map of PFN
prefixes says where its files are seen here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rucio_fs.catalogue.asking import Asking
from rucio_fs.catalogue.registry import Registry
from rucio_fs.did import Identity
from rucio_fs.errors import NoTarget, Refused
from rucio_fs.scratch.threads import in_thread
from rucio_fs.webdav.addresses import SCHEMES

Protocols = Sequence[Mapping[str, Any]]
"""Those of an RSE, as Rucio tells them."""

_PLAIN = re.compile(r"[A-Za-z0-9._/+=@,:~-]*")  # what means itself in a URL, for every storage


@dataclass(frozen=True, slots=True)
class Place:
    """*directory* is where this machine sees what the RSE has below *begins*, the start of PFNs."""

    rse: str
    directory: Path
    begins: str
    is_deterministic: bool

    def holds(self, path: Path) -> bool:
        return path.is_relative_to(self.directory)

    def pfn(self, path: Path) -> str:
        """The PFN of *path*, which the place holds.  Raises: Refused (it cannot be in a PFN)"""
        rest = path.relative_to(self.directory).as_posix()
        if not _PLAIN.fullmatch(rest) or ".." in path.parts:
            raise Refused(f"{path}: a PFN takes letters, digits and ._/+=@,:~- alone; rename it")
        return f"{self.begins.rstrip('/')}/{rest}"


class Places:
    """Finds the places of RSEs.  *paths* is the site's map: PFN prefix -> local directory."""

    def __init__(self, asking: Asking, registry: Registry, paths: Mapping[str, str]) -> None:
        self._asking = asking
        self._registry = registry
        self._paths = paths

    def __repr__(self) -> str:
        return f"<Places: {len(self._paths)} prefixes mapped>"

    async def at(self, who: Identity, rse: str) -> Sequence[Place]:
        """Where *rse* is seen on this machine; empty if it is not.

        Raises: NoTarget (no such RSE), what asking Rucio raises.  Source: GET /rses/RSE.
        """
        destination = await self._registry.destination(who, rse)
        scheme = next((one for one in SCHEMES if one in destination.schemes), None)
        if scheme is None:
            raise NoTarget(f"{rse} is not written over {', '.join(SCHEMES)}: name another RSE")
        settings = await self._asking.ask(
            who, f"protocols of {rse}", lambda client: client.get_rse(rse)
        )
        begins = destination.schemes[scheme]
        return [
            Place(rse, Path(directory), begins.rstrip("/") + rest, destination.is_deterministic)
            for directory, rest in seen(settings["protocols"], self._paths)
        ]

    async def of(self, who: Identity, rse: str, path: Path) -> Place:
        """The place of *rse* that holds *path*.

        Raises: Refused (none does; it says what to do), NoTarget, what asking Rucio raises.
        """
        places = await self.at(who, rse)
        for place in places:
            if place.holds(path):
                return place
            # The way to it may be another one, over symbolic links.
            real = replace(place, directory=await in_thread(place.directory.resolve))
            if real.holds(path):
                return real
        if not places:
            raise Refused(
                f"{rse} is not mounted on this machine as far as is known: it has no file://"
                " protocol; say in site.paths which directory its PFNs are in"
            )
        where = " and ".join(str(place.directory) for place in places)
        raise Refused(f"{path} does not lie at {rse}, whose files are below {where} here")


def seen(protocols: Protocols, paths: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Directories of this machine, and what PFNs have there after the RSE's own prefix.

    The site's map first, as for reading: a path of ``file://`` may be another one in a container.
    """
    for protocol in protocols:
        port = f":{protocol['port']}" if protocol.get("port") else ""
        prefix = "/" + str(protocol["prefix"]).strip("/")
        url = f"{protocol['scheme']}://{protocol.get('hostname') or ''}{port}{prefix}"
        for mapped, directory in sorted(paths.items(), key=lambda pair: -len(pair[0])):
            start = mapped.rstrip("/")
            if (rest := _rest(url, start)) is not None:
                yield str(Path(f"{directory}/{rest}")), ""
            elif (rest := _rest(start, url)) is not None:
                yield str(Path(directory)), rest
    for protocol in protocols:
        if protocol["scheme"] == "file" and protocol["domains"].get("lan", {}).get("read"):
            yield "/" + str(protocol["prefix"]).strip("/"), ""


def _rest(url: str, start: str) -> str | None:
    """What *url* has after *start*, if that ends between two components."""
    rest = url.removeprefix(start)
    return rest if url.startswith(start) and rest[:1] in ("", "/") else None
