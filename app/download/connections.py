"""Connections of one transfer: pooled, through the environment's proxies, and ended from outside at once."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import ssl
import threading
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

import app
from app import units
from app.download.model import DownloadError, Reason
from app.download.source import Timing, TransientError

MOST = 16
"""Connections to one host."""
RECEIVE_BUFFER_BYTES = 768 * units.KIB
"""What the kernel takes in while the disk is busy is lost in a kill, so it is not left to grow to 6 MiB.

It is also the TCP window: each connection brings at most this much per round trip, 38 MB/s at 20 ms.
"""

_SOCKET_OPTIONS = [
    *HTTPConnection.default_socket_options,
    (socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES),
]


class Connections:
    """Sends requests and reads replies; thread-safe."""

    def __init__(self, timing: Timing) -> None:
        """`timing` says how long to wait for a connection and for bytes."""
        self._timeout = urllib3.Timeout(connect=timing.connect_s, read=timing.stall_s)
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._managers: dict[str, urllib3.PoolManager] = {}
        self._aborted = False
        # Here, since it takes its time: made at the first request it would keep an abort waiting.
        # The same trust as for the Hub's API: certifi's authorities, or SSL_CERT_FILE's.
        self._context = httpx2.create_ssl_context()
        self._context.sslsocket_class = _secure_socket(self)

    def get(self, url: str, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        """The reply to a GET, its body not read yet; redirects are not followed.

        Raises:
            TransientError: There is none now.
            DownloadError: There will be none before somebody changes something.
        """
        try:
            return self._manager(url).request(
                "GET",
                url,
                headers={"User-Agent": f"ultra-launcher/{app.__version__}", **headers},
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
                timeout=self._timeout,
            )
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise failure(error) from error

    def read(self, response: urllib3.BaseHTTPResponse, most: int) -> bytes:
        """What has arrived, at most `most` bytes; empty at the end.

        Raises:
            TransientError: The connection broke, stalled, or ended too early.
        """
        try:
            return response.read1(most, decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise TransientError(repr(error)) from error

    def give_back(self, response: urllib3.BaseHTTPResponse, *, whole: bool) -> None:
        """The reply is no longer needed; its connection is, if it was read to the end."""
        with contextlib.suppress(urllib3.exceptions.HTTPError, OSError):
            if whole:
                response.release_conn()
            else:
                response.close()

    def abort(self) -> None:
        """Wake everybody who waits for bytes; there will be none any more."""
        with self._lock:
            self._aborted = True
            for sock in self._sockets:
                _end(sock)
            managers = list(self._managers.values())
        for manager in managers:
            manager.clear()

    def opened(self, sock: socket.socket) -> None:
        """A connection is being made.

        Raises:
            ConnectionAbortedError: Nobody wants it any more.
        """
        with self._lock:
            self._sockets = {s for s in self._sockets if s.fileno() >= 0} | {sock}
            if self._aborted:
                _end(sock)
                raise ConnectionAbortedError("stopped")

    def _manager(self, url: str) -> urllib3.PoolManager:
        """What speaks to the host of `url`, through a proxy where the environment names one."""
        parts = urlsplit(url)
        found = getproxies()
        proxy = found.get(parts.scheme) or found.get("all") or ""
        if proxy and proxy_bypass(parts.hostname or ""):
            proxy = ""
        with self._lock:
            if self._aborted:
                raise TransientError("stopped")
            if proxy not in self._managers:
                self._managers[proxy] = self._new_manager(proxy)
            return self._managers[proxy]

    def _new_manager(self, proxy: str) -> urllib3.PoolManager:
        manager: urllib3.PoolManager
        if proxy:
            address = proxy if "://" in proxy else f"http://{proxy}"
            user = urlsplit(address)
            login = unquote(f"{user.username}:{user.password or ''}") if user.username else None
            manager = urllib3.ProxyManager(
                address,
                proxy_headers=urllib3.make_headers(proxy_basic_auth=login),
                maxsize=MOST,
                ssl_context=self._context,
                socket_options=_SOCKET_OPTIONS,
            )
        else:
            manager = urllib3.PoolManager(
                maxsize=MOST, ssl_context=self._context, socket_options=_SOCKET_OPTIONS
            )
        manager.pool_classes_by_scheme = _pool_classes(self)
        return manager


def failure(error: BaseException) -> Exception:
    """What it means that a server is not reached: mostly nothing, since networks come back."""
    if isinstance(error, urllib3.exceptions.LocationValueError):
        return DownloadError(
            Reason.BAD_SERVER,
            "The server cannot be reached: its address or that of the proxy cannot be used.",
            detail=f"{error}.",
            hint="Check HF_ENDPOINT and http_proxy, https_proxy and all_proxy, then resume.",
        )
    refused = _of_certificate(error)
    if refused is not None:
        return DownloadError(
            Reason.BAD_SERVER,
            "The server does not prove who it is: its certificate is not valid here.",
            detail=f"{refused.verify_message}.",
            hint="Check this machine's clock and whether the network wants a login first; where a "
            "proxy looks into connections, name its authority in SSL_CERT_FILE. Then resume.",
        )
    return TransientError(repr(error))


def _of_certificate(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """The cause of `error`, if that is a certificate."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def _end(sock: socket.socket) -> None:
    """End a connection under whoever reads from it.

    Not by `SSLSocket.shutdown`, after which the rest would be read without decryption.
    """
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _secure_socket(owner: Connections) -> type[ssl.SSLSocket]:
    """It takes over a plain socket, and tells its owner before a server can keep it waiting."""

    class Socket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            owner.opened(self)
            super().do_handshake(block)

    return Socket


def _connect(owner: Connections, to: HTTPConnection) -> socket.socket:
    """As urllib3 connects, but its owner can end it while there is no answer yet.

    Raises:
        NewConnectionError: No address answers.
        OSError: The name has no address.
    """
    failed: OSError | None = None
    for family, kind, number, _, address in socket.getaddrinfo(
        to.host, to.port, type=socket.SOCK_STREAM
    ):
        sock = socket.socket(family, kind, number)
        try:
            for option in to.socket_options or ():
                sock.setsockopt(*option)
            _reach(owner, sock, address, to.timeout)
        except OSError as error:
            sock.close()
            failed = error
        else:
            return sock
    # Not the error itself: urllib3 takes a connection that is reset for one that was made.
    raise urllib3.exceptions.NewConnectionError(to, f"{failed}") from failed


def _reach(
    owner: Connections, sock: socket.socket, address: object, timeout_s: float | None
) -> None:
    sock.setblocking(False)
    # Only a socket that is on its way can be ended: so it is told after this.
    code = sock.connect_ex(address)  # type: ignore[arg-type]
    if code not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
        raise OSError(code, os.strerror(code))
    owner.opened(sock)
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_WRITE)
        if not selector.select(timeout_s):
            raise TimeoutError("no answer")
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))
    sock.settimeout(timeout_s)


def _pool_classes(owner: Connections) -> dict[str, type[HTTPConnectionPool]]:
    """urllib3's pools, with connections that tell their owner of their sockets."""

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(owner, self)

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(owner, self)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}
