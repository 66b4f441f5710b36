"""A full disk, proxies, TLS, memory: what needs the system for real."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import huggingface_hub
import pytest

from app import units
from app.download import journal as journals
from app.download import preflight, verify
from app.download.connections import Connections
from app.download.limiter import Limiter
from app.download.meter import Meter
from app.download.model import DownloadError, Reason
from app.download.records import Records
from app.download.set_run import SetRun
from app.download.source import Timing, TransientError
from tests.app.download.conftest import QUICK, Stage, point_at, wait_for
from tests.app.download.test_crash import flip
from tests.app.download.test_faults import refused, run, until_halted


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)], check=False
    )
    if mounted.returncode:
        pytest.skip("this system lets nobody mount a disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_fills_up(
    stage: Stage, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever else writes there: the file system says so before the first byte, and nothing is lost."""
    monkeypatch.setattr(preflight, "MARGIN_BYTES", 0)
    request = dataclasses.replace(stage.serve(units.MIB, 10 * units.MIB), folder=small_disk)
    monkeypatch.setattr(preflight, "_missing", lambda _target, _file: 0)  # it was free a moment ago
    other = small_disk / "other"
    other.write_bytes(bytes(8 * units.MIB))
    with pytest.raises(DownloadError) as caught:
        SetRun(request, Records(stage.state), timing=QUICK).run()
    assert caught.value.reason is Reason.NO_SPACE
    assert stage.hub.sent_bytes == units.MIB
    other.unlink()
    run(stage, request)
    assert stage.hub.sent_bytes == 11 * units.MIB


def test_a_disk_that_is_too_small(stage: Stage, small_disk: Path) -> None:
    request = dataclasses.replace(stage.serve(10 * units.MIB), folder=small_disk)
    with pytest.raises(DownloadError) as caught:
        SetRun(request, Records(stage.state), timing=QUICK).run()
    assert caught.value.reason is Reason.NO_SPACE
    assert "1.1 GB" in caught.value.detail
    assert stage.hub.sent_bytes == 0
    assert not list(request.folder.rglob("*.part"))


@pytest.mark.parametrize("free_pages", [0, 1])
def test_records_that_cannot_be_written_are_told_as_those(
    stage: Stage, small_disk: Path, monkeypatch: pytest.MonkeyPatch, free_pages: int
) -> None:
    """They may lie on another disk than the file; with one page free it fills up on the way."""
    monkeypatch.setattr(journals, "SEGMENT_BYTES", 4096)
    request = stage.serve(4 * units.MIB)
    hog, records = small_disk / "hog", Records(small_disk / "records")
    records.lock(request.target(request.files[0]))
    with contextlib.suppress(OSError), hog.open("wb", buffering=0) as stream:
        while stream.write(bytes(4096)):
            pass
    os.truncate(hog, hog.stat().st_size - 4096 * free_pages)
    with pytest.raises(DownloadError) as caught:
        SetRun(request, records, timing=QUICK).run()
    assert caught.value.reason is Reason.NO_SPACE
    assert str(small_disk / "records") in caught.value.title
    assert (stage.hub.sent_bytes > 0) is (free_pages > 0)
    hog.unlink()
    SetRun(request, records, timing=QUICK).run()
    stage.assert_right(request)


def test_records_that_nobody_may_write(stage: Stage, small_disk: Path) -> None:
    request, records = stage.serve(units.MIB), Records(small_disk / "records")
    SetRun(request, records, timing=QUICK).run()
    target = request.target(request.files[0])
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    subprocess.run(remount, check=True)
    assert verify.is_right(target, request.files[0], records.verified, afresh=True)
    os.utime(target, ns=(0, 0))  # so it is hashed again, and that cannot be kept
    assert verify.is_right(target, request.files[0], records.verified)
    flip(target, 1000)
    assert not verify.is_right(target, request.files[0], records.verified)
    with pytest.raises(DownloadError) as caught:
        SetRun(request, records, timing=QUICK).run()
    assert caught.value.reason is Reason.DISK
    assert str(small_disk / "records") in caught.value.title


def test_a_folder_that_cannot_be_written(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    request = dataclasses.replace(stage.serve(units.MIB), folder=tmp_path / "file")
    with pytest.raises(DownloadError) as caught:
        SetRun(request, Records(stage.state), timing=QUICK).run()
    assert caught.value.reason is Reason.DISK


OK = b"HTTP/1.1 206 ok\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


class Proxy:
    """Passes requests on, and tunnels: as plain as can be."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.logins: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(client,))
                thread.start()
                self._threads.append(thread)

    def _serve(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as stream, contextlib.suppress(OSError):
            line = stream.readline().decode()
            if not line:
                return
            self.lines.append(line.strip())
            headers = http.client.parse_headers(stream)
            self.logins.append(headers.get("Proxy-Authorization", ""))
            target = line.split()[1]
            if line.startswith("CONNECT"):
                host, port = target.split(":")
                with socket.create_connection((host, int(port))) as server:
                    client.sendall(b"HTTP/1.1 200 go on\r\n\r\n")
                    back = threading.Thread(target=self._copy, args=(server, client))
                    back.start()
                    self._copy(client, server)
                    back.join()
                return
            host, _, path = target.removeprefix("http://").partition("/")
            name, _, port = host.partition(":")
            with socket.create_connection((name, int(port))) as server:
                kept = {k: v for k, v in headers.items() if not k.startswith("Proxy")}
                kept["Connection"] = "close"
                head = "".join(f"{k}: {v}\r\n" for k, v in kept.items())
                server.sendall(f"{line.split()[0]} /{path} HTTP/1.1\r\n{head}\r\n".encode())
                self._copy(server, client)

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in [self._accepting, *self._threads]:
            thread.join()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy()
    yield made
    made.close()


def test_a_proxy_of_the_environment_is_used(
    stage: Stage, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = stage.serve(units.MIB)
    monkeypatch.setenv("http_proxy", f"http://me:pass%40word@127.0.0.1:{proxy.port}")
    monkeypatch.setenv("no_proxy", "")
    run(stage, request, connections=1)
    assert any("localhost" in line for line in proxy.lines)
    assert all(login.startswith("Basic ") for login in proxy.logins)
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    before = len(proxy.lines)
    second = dataclasses.replace(
        stage.serve(units.MIB, repo="org/second"), folder=request.folder / "other"
    )
    huggingface_hub.close_session()
    run(stage, second, connections=1)
    assert len(proxy.lines) == before


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself, and its key."""
    folder.mkdir(exist_ok=True)
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key,
         "-out", cert, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


@contextlib.contextmanager
def tls_server(cert: Path, key: Path, reply: bytes = OK) -> Iterator[int]:
    """Answers every request with `reply`, over TLS; gives the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with (
                contextlib.suppress(OSError),
                context.wrap_socket(client, server_side=True) as sock,
            ):
                sock.recv(65536)
                sock.sendall(reply)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_tls_is_checked_directly_and_through_a_proxy(
    stage: Stage, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert, key = certificate(tmp_path / "tls")
    with tls_server(cert, key) as port:
        url = f"https://localhost:{port}/file"
        for through in ("", f"http://127.0.0.1:{proxy.port}"):
            monkeypatch.setenv("https_proxy", through)
            monkeypatch.delenv("SSL_CERT_FILE", raising=False)
            stranger = Connections(QUICK)
            with pytest.raises(DownloadError, match="certificate") as caught:
                stranger.get(url, {})
            assert "self-signed" in caught.value.detail
            stranger.abort()
            monkeypatch.setenv("SSL_CERT_FILE", str(cert))
            friend = Connections(QUICK)
            response = friend.get(url, {})
            assert friend.read(response, 10) == b"ok"
            friend.abort()
    assert proxy.lines == [f"CONNECT localhost:{port} HTTP/1.0"] * 2


def test_a_hub_with_a_strange_certificate_is_the_end(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert, key = certificate(tmp_path / "tls")
    request = stage.serve(units.MIB)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with tls_server(cert, key) as port:
        point_at(monkeypatch, f"https://localhost:{port}")
        huggingface_hub.close_session()
        error = refused(stage, request)
    assert error.reason is Reason.BAD_SERVER
    assert "SSL_CERT_FILE" in error.hint


def test_a_proxy_that_cannot_be_used_is_the_end(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = stage.serve(units.MIB)
    monkeypatch.setenv("http_proxy", "gopher://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    huggingface_hub.close_session()
    assert refused(stage, request).reason is Reason.BAD_SERVER
    connections = Connections(QUICK)
    with pytest.raises(DownloadError, match="proxy"):
        connections.get(stage.hub.endpoint, {})
    connections.abort()
    huggingface_hub.close_session()


def test_https_never_leads_to_http(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert, key = certificate(tmp_path / "tls")
    request = stage.serve(units.MIB)
    reply = (
        f"HTTP/1.1 302 there\r\nLocation: {stage.hub.endpoint}/file\r\nContent-Length: 0\r\n"
        f"X-Repo-Commit: {request.commit}\r\nX-Linked-Size: {units.MIB}\r\n"
        f"X-Linked-Etag: {request.files[0].sha256}\r\nConnection: close\r\n\r\n"
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    huggingface_hub.close_session()
    with tls_server(cert, key, reply.encode()) as port:
        point_at(monkeypatch, f"https://localhost:{port}")
        with pytest.raises(DownloadError) as caught:
            SetRun(request, Records(stage.state), timing=QUICK).run()
        huggingface_hub.close_session()
    assert caught.value.reason is Reason.BAD_SERVER
    assert "from https to http" in caught.value.detail
    assert not stage.hub.requests


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_abort_wakes_a_reader(stage: Stage, scheme: str) -> None:
    """Also one whose handshake is not answered."""
    listener = socket.create_server(("127.0.0.1", 0))
    connections = Connections(Timing())
    failed = threading.Event()

    def ask() -> None:
        with contextlib.suppress(TransientError):
            connections.get(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/", {})
        failed.set()

    thread = threading.Thread(target=ask)
    thread.start()
    client, _ = listener.accept()
    client.recv(4096)
    connections.abort()
    assert failed.wait(2)
    thread.join()
    client.close()
    listener.close()


def test_a_halt_does_not_wait_for_certificates(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They take long to read on a busy machine."""
    request, read = stage.serve(units.MIB), httpx2.create_ssl_context
    reading, go_on = threading.Event(), threading.Event()

    def slowly() -> ssl.SSLContext:
        reading.set()
        go_on.wait()
        return read()

    monkeypatch.setattr(httpx2, "create_ssl_context", slowly)
    made = SetRun(request, Records(stage.state), timing=QUICK)
    worker = threading.Thread(target=until_halted, args=(made,))
    worker.start()
    assert reading.wait(20)
    halt = threading.Thread(target=made.halt)
    halt.start()
    halt.join(2)
    waited = halt.is_alive()
    go_on.set()
    halt.join()
    worker.join()
    assert not waited
    assert not stage.hub.sent_bytes


def test_a_halt_does_not_wait_for_a_host_that_does_not_answer() -> None:
    """A full queue of connections lets a further one wait as long as a host that is not there."""
    with socket.socket() as deaf, contextlib.ExitStack() as waiting:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(8):
            filler = waiting.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        connections = Connections(Timing(connect_s=30))
        failed: list[Exception] = []
        port = deaf.getsockname()[1]

        def ask() -> None:
            try:
                connections.get(f"http://127.0.0.1:{port}/", {})
            except TransientError as error:
                failed.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        wait_for(lambda: bool(connections._sockets))
        begun = time.monotonic()
        connections.abort()
        asking.join(20)
        assert time.monotonic() - begun < 2
        assert failed


def test_the_limit_holds_over_all_who_share_it() -> None:
    limiter, stop = Limiter(1_000_000), threading.Event()
    begun = time.monotonic()

    def take() -> None:
        for _ in range(10):
            limiter.take(10_000, stop)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 0.2 < time.monotonic() - begun < 2


def test_speed_and_remaining_time() -> None:
    meter = Meter()
    for second in range(9):
        meter.add(float(second), second * 1000)
    assert meter.remaining_s(1000) is None
    for second in range(9, 120):
        meter.add(float(second), second * 1000)
    assert meter.bytes_per_s() == pytest.approx(1000)
    assert meter.remaining_s(5000) == pytest.approx(5)
    for second in range(120, 130):
        meter.add(float(second), 119_000)
    assert meter.bytes_per_s() == 0
    assert meter.remaining_s(5000) == pytest.approx(5 * 60 / 50, rel=0.05)
