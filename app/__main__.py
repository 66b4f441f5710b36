"""`python -m app`: the command line."""

import sys

from app import processes

if __name__ == "__main__":
    if wrong := processes.strange_endpoint():
        sys.stderr.write(f"Error: {wrong}\n")
        sys.exit(2)
    from app.cli import main

    sys.exit(main(sys.argv[1:]))
