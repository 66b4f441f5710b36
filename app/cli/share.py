"""`ultra-launcher share-gpus`: other machines use this one's devices."""

from __future__ import annotations

import argparse
import ipaddress
import json
import sys

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
            print(f"\n{where}: ultra-launcher chat --rpc {shared.endpoint}")
            print("Ctrl+C ends it.\n", flush=True)
        print(WARNING, file=sys.stderr, flush=True)
        code = shared.wait()
    raise AppError(
        "The RPC server ended.",
        detail=f"Its exit status was {code}.",
        hint="Start it again; machines that used it have to load again.",
        kind=ErrorKind.ENGINE,
    )
