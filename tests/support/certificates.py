"""Certificates for tests of TLS, made where they are needed: each signs itself, so it is its own authority."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

OPENSSL = "openssl req -x509 -nodes -days 1 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -subj /CN=songstarter"
ALPN = ["h2", "http/1.1"]  # gRPC insists on being told h2


@dataclass(frozen=True)
class Certificate:
    """What a server shows, and what its clients must trust."""

    file: Path
    private_key: Path

    @classmethod
    def made(cls, folder: Path, *, of: str = "IP:127.0.0.1") -> Certificate:
        made = cls(folder / "certificate.pem", folder / "key.pem")
        files = ["-out", str(made.file), "-keyout", str(made.private_key)]
        command = [*OPENSSL.split(), *files, "-addext", f"subjectAltName={of}"]
        subprocess.run(command, check=True, capture_output=True)
        return made

    @property
    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file, self.private_key)
        context.set_alpn_protocols(ALPN)
        return context
