"""`ultra-launcher share-gpus`: other machines use this one's devices."""

from __future__ import annotations

import argparse
import ipaddress
import json
import socket
import sys

import psutil

from app.engine.share import WARNING, shared_devices
from app.errors import AppError, ErrorKind


def add_options(command: argparse.ArgumentParser) -> None:
    """The command's own options."""
    command.add_argument(
        "--host", default="127.0.0.1", help="an IPv4 address of this machine; loopback if left out"
    )
    command.add_argument("--port", type=int, default=50052, help="0 lets the system choose")
    command.add_argument("--devices", metavar="NAME,NAME", help="all GPUs if left out")


def share(options: argparse.Namespace) -> int:
    """Serve until Ctrl+C; returns the exit code."""
    names = tuple(name for name in (options.devices or "").split(",") if name)
    with shared_devices(options.host, options.port, names) as shared:
        if options.json:
            print(json.dumps({"endpoint": shared.endpoint, "devices": shared.devices}), flush=True)
        else:
            for name, words in shared.devices:
                print(f"{name}: {words}")
            alone = ipaddress.ip_address(shared.endpoint.split(":")[0]).is_loopback
            if alone:
                print(
                    "\nOnly this machine reaches it: to lend to others, give its address as --host."
                )
            where = "In another terminal" if alone else "On the other machine"
            for endpoint in _reached_at(shared.endpoint):
                print(f"\n{where}: ultra-launcher chat --rpc {endpoint}")
            print("Ctrl+C ends it.\n", flush=True)
        print(WARNING, file=sys.stderr, flush=True)
        code = shared.wait()
    raise AppError(
        "The RPC server ended.",
        detail=f"Its exit status was {code}.",
        hint="Start it again; machines that used it have to load again.",
        kind=ErrorKind.ENGINE,
    )


def _reached_at(endpoint: str) -> list[str]:
    """What others give as --rpc: of a server on all addresses, those of this machine."""
    host, port = endpoint.split(":")
    if not ipaddress.ip_address(host).is_unspecified:
        return [endpoint]
    found = [
        address.address
        for interface in psutil.net_if_addrs().values()
        for address in interface
        if address.family is socket.AF_INET
        and not ipaddress.ip_address(address.address).is_loopback
    ]
    return [f"{each}:{port}" for each in found or ["ADDRESS"]]
