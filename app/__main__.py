"""`python -m app`: the command line."""

import sys


def main() -> int:
    """The command line; returns the exit code."""
    try:
        from app.cli import main as command_line
    except KeyboardInterrupt:  # while modules are still read; later, commands see to it themselves
        return 130
    return command_line(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
