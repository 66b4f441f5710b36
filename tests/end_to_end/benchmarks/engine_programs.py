"""llama.cpp's own programs, built from the source inside llama-cpp-python's sdist, to measure against."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

from app import ggml

OPTIONS = (
    "GGML_RPC=ON",
    "LLAMA_BUILD_TESTS=OFF",
    "LLAMA_BUILD_EXAMPLES=OFF",
    "LLAMA_BUILD_SERVER=ON",
    "LLAMA_BUILD_UI=OFF",
    "LLAMA_USE_PREBUILT_UI=OFF",
)


def program(name: str) -> Path:
    """The program `name` (`llama-bench`, say); built once for each version of the engine."""
    version = ggml.engine_version()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = cache / "ultra-launcher" / "fit-params" / version
    found = folder / "build" / "bin" / name
    if found.exists():
        return found
    folder.mkdir(parents=True, exist_ok=True)
    sources = list(folder.glob("llama_cpp_python-*/vendor/llama.cpp"))
    if not sources:
        pip = [
            sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-python",
            f"llama-cpp-python=={version}", "-d", str(folder),
        ]  # fmt: skip
        subprocess.run(pip, check=True)
        with tarfile.open(next(folder.glob("llama_cpp_python-*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
        sources = list(folder.glob("llama_cpp_python-*/vendor/llama.cpp"))
    build = str(folder / "build")
    configure = ["cmake", "-S", str(sources[0]), "-B", build, *(f"-D{o}" for o in OPTIONS)]
    subprocess.run(configure, check=True)
    subprocess.run(["cmake", "--build", build, "-j", "--target", name], check=True)
    return found


def environment() -> dict[str, str]:
    """Lets a program use the very libraries that the app uses."""
    import llama_cpp

    libraries = Path(llama_cpp.__file__).parent / "lib"
    return os.environ | {"LD_LIBRARY_PATH": str(libraries)}
