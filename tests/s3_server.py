"""A server of the S3 protocol on loopback, in a process of its own, that logs and fails on request.

    with S3Server() as server:               # moto, with the data in its memory
        bucket = server.new_bucket()         # s3://bucket-1
        server.fail("a.jsonl", status=503, times=2)
        server.requests()                    # what was asked for so far

The process ends with this one, however that ends: it reads its standard input up to the end.
"""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

PAGE_KEYS = 100
"""Keys that the server lists at once; S3 itself 1,000."""
_SETTINGS = {
    "MOTO_S3_DEFAULT_MAX_KEYS": str(PAGE_KEYS),
    "MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": str(1 << 30),  # else files of 16 MB go to a disk
}
_CONTROL = "/-/"
Environment = dict[str, Any]
StartResponse = Callable[..., Any]


class Request(NamedTuple):
    """One request to the server."""

    method: str
    path: str
    """/BUCKET/KEY"""
    query: str
    status: int
    num_bytes: int
    """Of the body of the answer."""
    num_sent: int
    """Of the body of the request."""


class S3Server:
    """Starts the server, and sets the environment so that s3fs asks it."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.s3_server"]
        self._process = subprocess.Popen(
            command,
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_SETTINGS},
        )
        assert self._process.stdout is not None
        self.endpoint = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        import s3fs

        self._environment = dict(os.environ)
        os.environ.update(
            AWS_ENDPOINT_URL=self.endpoint,
            AWS_ACCESS_KEY_ID="test",
            AWS_SECRET_ACCESS_KEY="test",
            AWS_DEFAULT_REGION="us-east-1",
            AWS_EC2_METADATA_DISABLED="true",
            AWS_MAX_ATTEMPTS="1",
        )
        s3fs.S3FileSystem.clear_instance_cache()
        self.files = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
        """The file system, for what the test itself does."""
        self._num_buckets = 0
        return self

    def __exit__(self, *error: object) -> None:
        os.environ.clear()
        os.environ.update(self._environment)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)

    def new_bucket(self) -> str:
        """The URL of an empty bucket. What happened before is forgotten."""
        self.reset()
        self._num_buckets += 1
        self.files.mkdir(f"bucket-{self._num_buckets}")
        self.reset()
        return f"s3://bucket-{self._num_buckets}"

    def reset(self) -> None:
        """Forgets the requests so far, failures and latency."""
        self._control("reset", {})

    def requests(self, method: str = "", path: str = "") -> list[Request]:
        """The requests so far with this method, and this text in their path."""
        found = [Request(*request) for request in self._control("requests", {})]
        return [r for r in found if method in r.method and path in r.path]

    def fail(self, path: str, *, method: str = "GET", times: int = 1, **how: Any) -> None:
        """Lets the next requests with this text in their path fail: with a `status`, `cut` within
        the body, or `closed` without an answer; or wait for `delay_s` seconds."""
        self._control("fail", {"path": path, "method": method, "times": times, **how})

    def set_latency(self, seconds: float) -> None:
        """Every further request takes so much longer."""
        self._control("latency", {"seconds": seconds})

    def answer_from_memory(self) -> None:
        """Answers further requests for ranges of files without moto, which copies the whole file
        for each: for measurements of speed. Files must not change any more."""
        self._control("memory", {})

    def _control(self, what: str, content: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"{self.endpoint}{_CONTROL}{what}", json.dumps(content).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


class _Recorder:
    """The application of the server, around moto's."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application
        self._lock = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._requests: list[Request] = []
        self._failures: list[dict[str, Any]] = []
        self._latency_s = 0.0
        self._known: dict[str, tuple[list[tuple[str, str]], bytes]] | None = None

    def __call__(self, environment: Environment, start_response: StartResponse) -> Iterable[bytes]:
        path = environment["PATH_INFO"]
        if path.startswith(_CONTROL):
            size = int(environment.get("CONTENT_LENGTH") or 0)
            content = json.loads(environment["wsgi.input"].read(size))
            answer = json.dumps(self._answer(path.removeprefix(_CONTROL), content)).encode()
            start_response("200 OK", [("Content-Length", str(len(answer)))])
            return [answer]
        failure = self._failure_of(environment["REQUEST_METHOD"], path)
        time.sleep(failure.get("delay_s", self._latency_s))
        if failure.get("closed"):
            self._note(environment, 0, 0)
            raise ConnectionResetError
        if "status" in failure:
            self._note(environment, failure["status"], 0)
            start_response(f"{failure['status']} Failed", [("Content-Length", "0")])
            return []
        return self._served(environment, start_response, failure.get("cut", False))

    def _served(
        self, environment: Environment, start_response: StartResponse, is_cut: bool
    ) -> Iterator[bytes]:
        seen: list[int] = []

        def start(status: str, *rest: Any) -> Any:
            seen.append(int(status.split()[0]))
            return start_response(status, *rest)

        if self._known is not None and "HTTP_RANGE" in environment:
            body = self._range(self._known, environment, start)
        else:
            body = b"".join(self._application(environment, start))
        self._note(environment, seen[0], len(body))
        yield body[: len(body) // 2] if is_cut else body
        if is_cut:
            raise ConnectionResetError

    def _range(
        self,
        known: dict[str, tuple[list[tuple[str, str]], bytes]],
        environment: Environment,
        start_response: StartResponse,
    ) -> bytes:
        """The range that is asked for, of a file that moto gave once."""
        path = environment["PATH_INFO"]
        if path not in known:
            headers: list[tuple[str, str]] = []
            whole = {key: value for key, value in environment.items() if key != "HTTP_RANGE"}
            content = self._application(whole, lambda _, found, *__: headers.extend(found))
            known[path] = headers, b"".join(content)
        headers, content_bytes = known[path]
        first, last = map(int, environment["HTTP_RANGE"].removeprefix("bytes=").split("-"))
        body = content_bytes[first : last + 1]
        of_whole = ("content-length", "x-amz-checksum")
        kept = [header for header in headers if not header[0].lower().startswith(of_whole)]
        span = f"bytes {first}-{first + len(body) - 1}/{len(content_bytes)}"
        added = [("Content-Length", str(len(body))), ("Content-Range", span)]
        start_response("206 Partial Content", [*kept, *added])
        return body

    def _note(self, environment: Environment, status: int, num_bytes: int) -> None:
        request = Request(
            environment["REQUEST_METHOD"],
            environment["PATH_INFO"],
            environment.get("QUERY_STRING", ""),
            status,
            0 if environment["REQUEST_METHOD"] == "HEAD" else num_bytes,
            int(environment.get("CONTENT_LENGTH") or 0),
        )
        with self._lock:
            self._requests.append(request)

    def _answer(self, what: str, content: dict[str, Any]) -> Any:
        with self._lock:
            if what == "requests":
                return self._requests
            if what == "fail":
                self._failures.append(content)
            elif what == "latency":
                self._latency_s = content["seconds"]
            elif what == "memory":
                self._known = {}
            else:
                self._reset()
        return None

    def _failure_of(self, method: str, path: str) -> dict[str, Any]:
        with self._lock:
            for failure in self._failures:
                if failure["method"] == method and failure["path"] in path and failure["times"]:
                    failure["times"] -= 1
                    return failure
        return {}


def main() -> None:
    """Serves until standard input ends; prints the port."""
    import logging

    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)

    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def connection_dropped(self, error: BaseException, environ: Any = None) -> None:
            self.close_connection = True

    application = _Recorder(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
