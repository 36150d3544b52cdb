"""A Hub of one repository, over HTTP, as huggingface_hub speaks with it."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pytest


class Hub:
    """Its branch `main` is the last of its commits, each a folder."""

    NAME = "someone/judge"

    def __init__(self) -> None:
        self.commits: dict[str, Path] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                revision, _, name = self.path.removeprefix(f"/{hub.NAME}/resolve/").partition("/")
                commit = hub.head if revision == "main" else revision
                file = hub.commits[commit] / name
                content = file.read_bytes() if file.is_file() else b""
                self.send_response(200 if file.is_file() else 404)
                if not file.is_file():
                    self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", str(len(content)))
                self.send_header("X-Repo-Commit", commit)
                if not file.is_file():
                    self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("ETag", f'"{commit}-{name}"')
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

            do_HEAD = do_GET

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    def commit(self, folder: Path) -> None:
        self.commits[f"{len(self.commits):040x}"] = folder

    def serve_to(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        """Makes it the Hub of this process, with a cache of its own."""
        url = f"http://127.0.0.1:{self.server.server_port}"
        template = "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", url + template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
