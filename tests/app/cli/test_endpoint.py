from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["app", "ui"])
@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:99999", "http://[::1"])
def test_an_endpoint_that_is_no_address_is_told_in_a_sentence(module: str, endpoint: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", module, "models"],
        env=os.environ | {"HF_ENDPOINT": endpoint},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"Error: HF_ENDPOINT is '{endpoint}'")
    assert len(ended.stderr.splitlines()) == 1
