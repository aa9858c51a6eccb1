"""The token endpoint of a subscription's login, played behind a TLS proxy: what Claude Code renews its login at.

Refresh tokens are good for one use, as the real ones are: whoever comes second with one is refused.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HOSTS = ("platform.claude.com", "api.anthropic.com", "claude.ai")


@dataclass
class TokenEndpoint:
    """`renewed` is how often a login was renewed, `refused` how often an old refresh token came."""

    folder: Path
    renewed: int = 0
    refused: int = 0
    good: str = "refresh-0"
    url: str = ""
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def certificate(self) -> Path:
        return self.folder / "certificate.pem"

    def environ(self) -> dict[str, str]:
        """What sends a program there, and nothing else."""
        return {"HTTPS_PROXY": self.url, "NODE_EXTRA_CA_CERTS": str(self.certificate), "NO_PROXY": "127.0.0.1"}

    def login(self, config_dir: Path, *, ends_in: float = -60) -> Path:
        """Leave a login in a folder that ends in so many seconds."""
        config_dir.mkdir(parents=True, exist_ok=True)
        held = {"accessToken": "access-0", "refreshToken": self.good, "expiresAt": int((time.time() + ends_in) * 1000),
                "scopes": ["user:inference", "user:profile"], "subscriptionType": "max"}  # fmt: skip
        file = config_dir / ".credentials.json"
        file.write_text(json.dumps({"claudeAiOauth": held}))
        file.chmod(0o600)
        return config_dir

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[TokenEndpoint]:
        """Serve while the block lasts."""
        context = self._tls()
        server = await asyncio.start_server(lambda r, w: self._connect(r, w, context), "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for writer in list(self._writers):
                writer.close()

    def _tls(self) -> ssl.SSLContext:
        key = self.folder / "key.pem"
        names = ",".join(f"DNS:{host}" for host in HOSTS)
        argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", f"/CN={HOSTS[0]}",
                "-addext", f"subjectAltName={names}", "-keyout", str(key), "-out", str(self.certificate)]  # fmt: skip
        subprocess.run(argv, check=True, capture_output=True, timeout=60)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        return context

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tls: ssl.SSLContext) -> None:
        self._writers.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
            head = await reader.readuntil(b"\r\n\r\n")
            host = head.split()[1].decode().partition(":")[0]
            if not head.startswith(b"CONNECT") or host not in HOSTS:
                writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            else:
                writer.write(b"HTTP/1.1 200 Connection Established\r\n\r\n")
                await writer.drain()
                await writer.start_tls(tls)
                await self._serve(reader, writer)
            await writer.drain()
        self._writers.discard(writer)
        writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        sizes = [line.partition(":")[2] for line in head.lower().splitlines() if line.startswith("content-length:")]
        body = await reader.readexactly(int(sizes[0])) if sizes else b""
        status, answer = (404, {}) if "/v1/oauth/token" not in head.splitlines()[0] else self._renew(body)
        said = json.dumps(answer).encode()
        writer.write(f"HTTP/1.1 {status} .\r\nContent-Type: application/json\r\nContent-Length: {len(said)}\r\n"
                     "Connection: close\r\n\r\n".encode() + said)  # fmt: skip

    def _renew(self, body: bytes) -> tuple[int, dict[str, Any]]:
        if json.loads(body).get("refresh_token") != self.good:
            self.refused += 1
            return 400, {"error": "invalid_grant", "error_description": "Refresh token not found or invalid"}
        self.renewed += 1
        self.good = f"refresh-{self.renewed}"
        return 200, {"access_token": f"access-{self.renewed}", "refresh_token": self.good, "expires_in": 3600,
                     "token_type": "Bearer", "scope": "user:inference user:profile"}  # fmt: skip
