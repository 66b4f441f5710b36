"""Ways out of faults in the terminal: told with numbers, taken by number."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from app import paths, processes
from app.units import MIB
from tests.helpers.faults import Faults
from tests.helpers.rpc import rpc_servers, server_at


def until(stream: IO[str], kind: str) -> dict[str, Any]:
    for line in stream:
        found: dict[str, Any] = json.loads(line)
        assert found["type"] != "error", found
        if found["type"] == kind:
            return found
    raise AssertionError(f"no {kind}")


def test_a_program_is_told_the_ways_and_takes_one_by_its_number() -> None:
    with rpc_servers(2) as endpoints:
        rpc = [part for endpoint in endpoints for part in ("--rpc", endpoint)]
        command = [sys.executable, "-m", "app", "chat", "--json", "--context", "2048", *rpc]
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=processes.child_environment(),
        )
        assert child.stdin is not None
        assert child.stdout is not None
        with child:
            until(child.stdout, "loaded")
            child.stdin.write("Tell a very long story.\n")
            child.stdin.flush()
            assert until(child.stdout, "text")["text"]
            server_at(endpoints[1]).kill()
            assert until(child.stdout, "finished")["text"]
            told = until(child.stdout, "ways_out")
            assert endpoints[1] in told["sentence"]
            (way,) = told["ways"]
            assert way["title"] == f"Reload without {endpoints[1]}"
            assert way["settings"] == {"disabled_devices": [f"rpc:{endpoints[1]}/0"]}
            child.stdin.write("/1\n")
            child.stdin.flush()
            until(child.stdout, "loaded")
            child.stdin.write("Name a colour.\n")
            child.stdin.close()
            last = until(child.stdout, "finished")
            assert last["error"] is None
            assert child.wait(60) == 0
    assert not (paths.folders().config / "settings.json").exists()


def test_a_person_at_a_terminal_chooses_by_number_after_a_load_that_failed(tmp_path: Path) -> None:
    environment = processes.child_environment(
        Faults(tmp_path).variables | {"TEST_MEMORY": str(1300 * MIB)}
    )
    environment["PYTHONPATH"] = str(tmp_path / "site") + os.pathsep + environment["PYTHONPATH"]
    mine, theirs = pty.openpty()
    command = [sys.executable, "-m", "app", "chat", "--prompt", "Hi", "--max-tokens", "4"]
    child = subprocess.Popen(
        [*command, "--context", "65536"],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    os.close(theirs)
    assert child.stderr is not None
    with child:
        said = []
        for line in child.stderr:
            said.append(line)
            if "Type a number" in line:
                break
        number = next(line.split()[0] for line in said if "Use a context of" in line)
        os.write(mine, f"{number.lstrip('/')}\n".encode())
        out, error = child.communicate(timeout=120)
        os.close(mine)
        assert any("Main memory is about" in line for line in said), said
        assert "Loaded in" in error
        assert out.strip()
        assert child.returncode == 0
