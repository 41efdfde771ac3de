"""The storages: XRootD (COLO, REM1, the token-guarded one), nginx WebDAV (REM2, REMND, REMTAPE) and
Apache WebDAV (no RSE).

Writes their configuration and returns the commands; starting.py runs them.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from lake.namespaces import overlay
from lake.system import apache_modules, nginx_dav_module, program
from lake.tls import Tls
from lake.users import service_user

# One checksum more at once than `chksum max`, and the client is told to wait for 30 s.
_XROOTD = """\
all.export /
oss.localroot {store}
all.adminpath {run}/admin
all.pidpath {run}/admin
xrd.port {port}
xrd.tls {run}/host.pem {run}/host.key
xrd.tlsca certdir {certificates}
xrd.protocol XrdHttp:{port} libXrdHttp.so
http.exthandler xrdtpc libXrdHttpTPC.so
http.listingdeny no
xrootd.chksum max 32 adler32 md5
"""

_XROOTD_TOKENS = """\
ofs.authorize 1
ofs.authlib libXrdAccSciTokens.so config={run}/scitokens.cfg
http.header2cgi Authorization authz
xrootd.seclib libXrdSec.so
"""

_SCITOKENS = """\
[Global]
audience = https://localhost:{port}, rucio
onmissing = deny
[Issuer Lake]
issuer = {issuer}
base_path = /
"""

_NGINX = """\
load_module {module};
pid {run}/nginx.pid;
error_log {run}/error.log;
worker_processes 2;
daemon off;
{user}
events {{ worker_connections 512; }}
http {{
  access_log {run}/access.log;
  client_body_temp_path {store}/.uploading;
  proxy_temp_path {run}/p; fastcgi_temp_path {run}/f; uwsgi_temp_path {run}/u;
  scgi_temp_path {run}/s;
  dav_ext_lock_zone zone=dav:1m;
  sendfile on;
  server {{
    listen 127.0.0.1:{dav};
    listen 127.0.0.1:{davs} ssl;
    server_name localhost;
    ssl_certificate {tls.host_certificate};
    ssl_certificate_key {tls.host_key};
    client_max_body_size 0;
    merge_slashes off;
    root {store};
    location / {{
      autoindex on;                 # so HEAD on a directory is 200, which Rucio's webdav wants
      dav_methods PUT DELETE MKCOL COPY MOVE;
      dav_ext_methods PROPFIND OPTIONS;
      create_full_put_path on;
      dav_access user:rw group:r all:r;
    }}
  }}
}}
"""

# What is not set is as Apache makes it: a connection ends after 101 requests or 5 s without one.
_APACHE = """\
ServerRoot {run}
DefaultRuntimeDir {run}
PidFile {run}/httpd.pid
ErrorLog {run}/error.log
ServerName localhost
{user}
{modules}
LogFormat "%t \\"%r\\" %>s %B \\"%{{Range}}i\\"" access
CustomLog {run}/access.log access
Listen 127.0.0.1:{http}
Listen 127.0.0.1:{https}
StartServers 1
EnableSendfile On
MergeSlashes Off
DavLockDB {run}/locks/db
DocumentRoot {store}
<Directory {store}>
  Dav On
  Options +Indexes
  Require all granted
</Directory>
<VirtualHost 127.0.0.1:{https}>
  SSLEngine on
  SSLCertificateFile {tls.host_certificate}
  SSLCertificateKeyFile {tls.host_key}
</VirtualHost>
"""
_APACHE_MODULES = ("mpm_event", "authz_core", "dir", "autoindex", "dav", "dav_fs", "ssl")


def xrootd_command(
    name: str, port: int, store: Path, run: Path, tls: Tls, *, issuer: str | None = None
) -> list[str]:
    """Configure an XRootD that serves *store*; with *issuer* only to bearers of its tokens."""
    user = service_user("xrootd")
    for directory in (run, run / "admin"):
        directory.mkdir(exist_ok=True)
        user.own(directory)
    for source in (tls.host_certificate, tls.host_key):
        copy = run / source.name  # its own copy: it reads them as its own user
        shutil.copy(source, copy)
        copy.chmod(0o400)
        user.own(copy)
    text = _XROOTD.format(store=store, run=run, port=port, certificates=tls.ca_directory)
    if issuer is not None:
        text += _XROOTD_TOKENS.format(run=run)
        (run / "scitokens.cfg").write_text(_SCITOKENS.format(port=port, issuer=issuer))
    config = run / "xrootd.cfg"
    config.write_text(text)
    server = [
        *[program("xrootd"), "-c", str(config), "-n", name, "-I", "v4"],
        *["-p", str(port), "-l", str(run / "xrootd.log")],
    ]
    command = _kept_up(_on_loopback(port, user.command(server)))
    # It fetches the issuer's keys over https and reads the system's bundle only.
    return (
        overlay({tls.bundle: Path("/etc/ssl/certs/ca-certificates.crt")}, command)
        if (issuer is not None)
        else command
    )


def nginx_command(dav: int, davs: int, store: Path, run: Path, tls: Tls) -> list[str]:
    """Configure nginx as a WebDAV server of *store*."""
    run.mkdir()
    config = run / "nginx.conf"
    config.write_text(
        _NGINX.format(
            module=nginx_dav_module(),
            run=run,
            store=store,
            dav=dav,
            davs=davs,
            tls=tls,
            user="user www-data;" if os.geteuid() == 0 else "",
        )
    )
    return [program("nginx"), "-c", str(config), "-e", str(run / "error.log")]


def apache_command(http: int, https: int, store: Path, run: Path, tls: Tls) -> list[str]:
    """Configure Apache as a WebDAV server of *store*."""
    user = service_user("www-data")
    for directory in (run, run / "locks"):
        directory.mkdir()
    user.own(run / "locks")
    modules = apache_modules()
    config = run / "apache.conf"
    config.write_text(
        _APACHE.format(
            modules="\n".join(
                f"LoadModule {name}_module {modules}/mod_{name}.so" for name in _APACHE_MODULES
            ),
            run=run,
            store=store,
            http=http,
            https=https,
            tls=tls,
            user=f"User {user.name}\nGroup #{user.gid}" if os.geteuid() == 0 else "",
        )
    )
    return [program("apache2"), "-f", str(config), "-DFOREGROUND"]


# XRootD 5.5 crashes now and then where a client's TLS connection breaks off in the middle; a site's
# service manager starts it again, too.
_KEEP_UP = """
trap 'kill "$server"; wait "$server"; exit 0' TERM
while :; do "$@" & server=$!; wait "$server"; sleep 0.2; done
"""


def _kept_up(command: Sequence[str]) -> list[str]:
    """Start *command* again whenever it ends, until told to end."""
    return ["sh", "-c", _KEEP_UP, "sh", *command]


def _on_loopback(port: int, command: Sequence[str]) -> list[str]:
    listener = Path(__file__).with_name("loopback.py")
    return [sys.executable, "-E", "-s", str(listener), str(port), *command]
