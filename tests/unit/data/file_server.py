"""A web server on this machine that gives files and parts of them, and breaks off, stalls or refuses when told to."""

import re
import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


class FileServer:
    """Serves ``files`` (path to content, ``/`` in front).

    Attributes:
        faults: path to what goes wrong in its next requests, in order: ``drop`` (half of the bytes, then the
            connection is closed), ``stall`` (half of the bytes, then nothing), ``silent`` (no answer), ``whole``
            (ranges are not known), ``unsized`` (half of the bytes, and no word on how many there are), or a status.
        always: path to what goes wrong in each request.
        requests: (path with query, Range or None) of every request.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: defaultdict[str, deque[str | int]] = defaultdict(deque)
        self.always: dict[str, str | int] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.released = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: object) -> None:  # whoever hung up meant to
                pass

        self._http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def add(self, name: str, content: bytes | Path) -> str:
        """Serve a file; its address."""
        self.files[f"/{name}"] = content.read_bytes() if isinstance(content, Path) else content
        return f"{self.url}/{name}"

    def add_tree(self, folder: Path, prefix: str = "") -> str:
        """Serve all files below a folder; its address."""
        for path in folder.rglob("*"):
            if path.is_file():
                self.add(f"{prefix}{path.relative_to(folder).as_posix()}", path)
        return f"{self.url}/{prefix}".rstrip("/")

    def num_requests(self, name: str) -> int:
        return sum(path.partition("?")[0] == f"/{name}" for path, _ in self.requests)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.requests.append((handler.path, wanted))
        path = unquote(handler.path.partition("?")[0])
        fault = self.faults[path].popleft() if self.faults[path] else self.always.get(path)
        if fault == "silent":
            self.released.wait()
            handler.close_connection = True
            return
        if path not in self.files or isinstance(fault, int):
            self._send(handler, 404 if fault is None else int(fault), b"no", {})
            return
        body, status, headers = self.files[path], 200, {}
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or "")
        if span and fault != "whole":
            total, first, last = len(body), int(span[1]), int(span[2] or len(body))
            if first >= total:
                self._send(handler, 416, b"", {"Content-Range": f"bytes */{total}"})
                return
            body, status = body[first : last + 1], 206
            headers["Content-Range"] = f"bytes {first}-{first + len(body) - 1}/{total}"
        self._send(handler, status, body, headers, fault=fault if isinstance(fault, str) else None)

    def _send(
        self, handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict, *, fault: str | None = None
    ) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        if fault == "unsized":
            handler.send_header("Connection", "close")
        else:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: len(body) // 2] if fault in ("drop", "stall", "unsized") else body)
        handler.wfile.flush()
        if fault == "stall":
            self.released.wait()
        if fault in ("drop", "stall", "unsized"):
            handler.close_connection = True

    def close(self) -> None:
        self.released.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@contextmanager
def file_server() -> Iterator[FileServer]:
    server = FileServer()
    try:
        yield server
    finally:
        server.close()
