"""Makes the lake's certificate authority, host certificate and user certificate with openssl."""

import shutil
import subprocess
from pathlib import Path

from lake.system import program

_DAYS = "3650"
# Python 3.13 verifies strictly: a CA needs keyUsage, a leaf the key identifier of its issuer.
_CA_EXTENSIONS = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
_LEAF_EXTENSIONS = "authorityKeyIdentifier=keyid\nbasicConstraints=CA:FALSE\n"
_HOST_EXTENSIONS = (
    _LEAF_EXTENSIONS
    + "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n"
)
_USER_EXTENSIONS = _LEAF_EXTENSIONS + "extendedKeyUsage=clientAuth\n"


class Tls:
    """The lake's certificates, in one directory."""

    def __init__(self, directory: Path) -> None:
        """Only names the files; see make()."""
        self.directory = directory
        self.ca_file = directory / "ca.pem"
        self.ca_directory = directory / "certificates"
        self.host_certificate = directory / "host.pem"
        self.host_key = directory / "host.key"
        self.user_proxy = directory / "userproxy.pem"
        self.bundle = directory / "bundle.pem"

    def make(self) -> None:
        """Make everything (0.3 s, three RSA keys)."""
        self.ca_directory.mkdir(parents=True)
        self._openssl(
            *["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", _DAYS],
            *["-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Lake CA", *_CA_EXTENSIONS],
        )
        self._sign("host", "/CN=localhost", _HOST_EXTENSIONS)
        self._sign("user", "/CN=lake user", _USER_EXTENSIONS)
        user = (self.directory / "user.pem").read_text() + (self.directory / "user.key").read_text()
        self.user_proxy.write_text(user)
        for secret in (self.user_proxy, *self.directory.glob("*.key")):
            secret.chmod(0o600)
        digest = self._openssl("x509", "-hash", "-noout", "-in", "ca.pem").strip()
        shutil.copy(self.ca_file, self.ca_directory / f"{digest}.0")
        system = Path("/etc/ssl/certs/ca-certificates.crt")
        trusted = system.read_text() if system.exists() else ""
        self.bundle.write_text(trusted + self.ca_file.read_text())

    def _sign(self, name: str, subject: str, extensions: str) -> None:
        (self.directory / f"{name}.ext").write_text(extensions)
        self._openssl(
            *["req", "-newkey", "rsa:2048", "-nodes", "-subj", subject],
            *["-keyout", f"{name}.key", "-out", f"{name}.csr"],
        )
        self._openssl(
            *["x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key"],
            *["-CAcreateserial", "-out", f"{name}.pem", "-days", _DAYS, "-extfile", f"{name}.ext"],
        )

    def _openssl(self, *arguments: str) -> str:
        done = subprocess.run(
            [program("openssl"), *arguments],
            cwd=self.directory,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout
