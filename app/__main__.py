"""`python -m app`: the command line."""

import sys

from app import processes


def main() -> int:
    """The command line; returns the exit code."""
    if wrong := processes.strange_endpoint():
        sys.stderr.write(f"Error: {wrong}\n")
        return 2
    try:
        from app.cli import main as command_line
    except KeyboardInterrupt:  # while modules are still read; later, commands see to it themselves
        return 130
    return command_line(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
