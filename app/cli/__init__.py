"""The command line: the headless twin of every screen."""

from app.cli.main import main

__all__ = ["main"]
