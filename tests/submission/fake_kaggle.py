"""A stand-in for Kaggle's API on this machine, which the real client is pointed at: it answers what a test tells it to.

The client sends absolute requests to http://localhost through the proxy that the environment names.
"""

import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest import mock

Reply = tuple[int, dict[str, Any]]
"""HTTP status and JSON body."""


def refusal(code: int, message: str) -> Reply:
    return code, {"code": code, "message": message}


@dataclass
class FakeKaggle:
    """The server; while it is entered it runs and the environment points to it. `replies` by method name come first."""

    replies: dict[str, Reply | Callable[[], Reply]] = field(default_factory=dict)
    dataset_version: int = 0
    """0: there is no dataset yet."""
    statuses: list[str] = field(default_factory=lambda: ["COMPLETE"])
    """Of the notebook, one after the other; the last stays."""
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    uploaded: list[bytes] = field(default_factory=list)
    upload_status: int = 200

    def __enter__(self) -> "FakeKaggle":
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                method = self.path.rsplit("/", 1)[-1]
                sent = json.loads(body) if body.startswith(b"{") else {}
                fake.requests.append((method, sent))
                self.answer(*fake.reply(method))

            def do_PUT(self) -> None:
                fake.uploaded.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
                self.answer(fake.upload_status, {})

            def do_GET(self) -> None:
                self.answer(404, {"code": 404, "message": "Not found"})

            def answer(self, status: int, body: dict[str, Any]) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        proxy = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.variables = {"KAGGLE_API_ENVIRONMENT": "LOCALHOST", "http_proxy": proxy, "HTTP_PROXY": proxy}
        self.environment = mock.patch.dict(os.environ, self.variables, no_proxy="127.0.0.1")
        self.environment.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.environment.stop()
        self.server.shutdown()
        self.server.server_close()

    def methods(self) -> list[str]:
        return [method for method, _ in self.requests]

    def sent(self, method: str) -> dict[str, Any]:
        """The body of the last call of a method."""
        return [body for name, body in self.requests if name == method][-1]

    def reply(self, method: str) -> Reply:
        special = self.replies.get(method)
        if special is not None:
            return special() if callable(special) else special
        if method in ("CreateDataset", "CreateDatasetVersion"):
            self.dataset_version += 1
        if method == "GetDatasetStatus" and not self.dataset_version:
            return refusal(404, "Not found")
        bodies: dict[str, dict[str, Any]] = {
            "GetDatasetStatus": {"status": "READY"},
            "GetDataset": {"currentVersionNumber": self.dataset_version},
            "StartBlobUpload": {"token": "blob", "createUrl": f"http://localhost/upload/{len(self.uploaded)}"},
            "CreateDataset": {"status": "ok", "url": "https://www.kaggle.com/datasets/you/arc-trm-code"},
            "CreateDatasetVersion": {"status": "ok", "url": "https://www.kaggle.com/datasets/you/arc-trm-code"},
            "SaveKernel": {"versionNumber": 7, "url": "https://www.kaggle.com/code/you/arc-trm"},
            "CreateCodeSubmission": {"message": "Successfully submitted to ARC", "ref": 1},
            "GetSubmissionLimits": {"numAllowedNow": 0},
        }
        if method == "GetKernelSessionStatus":
            status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
            bodies[method] = {"status": status} | ({"failureMessage": "the notebook raised"} if status == "ERROR" else {})
        return (200, bodies[method]) if method in bodies else refusal(404, f"the stand-in does not know {method}")
