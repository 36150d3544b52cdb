"""Pages that a command serves on this machine, to the people whom it is meant for and to no other page."""

import base64
import hashlib
import re
import socket
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse


def local_app(title: str, name: str) -> FastAPI:
    """An application that only its own page can use.

    A request must call it by a name of its own; without this check a web page that the browser has open could reach it
    under a name of its own, which it points here. A change must be JSON, which no other page's form can send, and have
    an Origin that is the Host besides, or such a page could have the browser send one.

    Args:
        title: the command's.
        name: what the server may be called by besides localhost, this machine's own name, and any address in numbers.
    """
    app = FastAPI(title=title, docs_url=None, redoc_url=None, openapi_url=None)
    names = {"localhost", socket.gethostname().lower(), name.lower()}

    @app.middleware("http")
    async def only_by_the_page(request: Request, call_next: Any) -> Any:
        called = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        if called not in names and not _is_address(called):
            return JSONResponse({"detail": f"this server is not called {called!r}"}, 400)
        if request.method not in ("GET", "HEAD"):
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                return JSONResponse({"detail": f"a change is sent as application/json, found {kind!r}"}, 415)
            origin = request.headers.get("origin")
            if origin is None or urlsplit(origin).netloc != request.headers.get("host"):
                return JSONResponse({"detail": f"a change comes from the page itself, found the origin {origin}"}, 403)
        return await call_next(request)

    return app


def page(file: Path) -> HTMLResponse:
    """An HTML file with one `<style>` and one `<script>`, and a policy under which the browser runs these two, talks to
    this server, and does nothing else, whatever a text that the page shows may hold."""
    html = file.read_text(encoding="utf-8")
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src '{_digest(html, 'script')}'",
            f"style-src '{_digest(html, 'style')}'",
            "img-src data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )
    return HTMLResponse(html, headers={"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"})


def _digest(html: str, element: str) -> str:
    (content,) = re.findall(rf"<{element}>(.*?)</{element}>", html, re.DOTALL)
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def _is_address(host: str) -> bool:
    """Whether a host is said in numbers: no other page can point a name of its own at those."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
