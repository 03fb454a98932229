"""Google's token endpoint, and the key file of a service account that leads to it. google-auth itself does the rest."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


class TokenServer:
    """`issued` holds the tokens it gave, in order; `status` other than 200 refuses."""

    def __init__(self) -> None:
        self.issued: list[str] = []
        self.status = 200
        self.expires_s = 3600
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                body: dict[str, Any] = {"error": "invalid_grant", "error_description": "no such account"}
                if outer.status == 200:
                    outer.issued.append(f"ya29.token-{len(outer.issued) + 1}")
                    body = {
                        "access_token": outer.issued[-1],
                        "expires_in": outer.expires_s,
                        "token_type": "Bearer",
                    }
                data = json.dumps(body).encode()
                self.send_response(outer.status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def key_file(self, path: Path, *, project: str = "project-of-the-key") -> Path:
        """Written to `path`: what GOOGLE_APPLICATION_CREDENTIALS names."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        account = {
            "type": "service_account",
            "project_id": project,
            "private_key_id": "1",
            "private_key": pem.decode(),
            "client_email": f"agentobs@{project}.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"http://127.0.0.1:{self._server.server_port}/token",
        }
        path.write_text(json.dumps(account))
        return path

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
