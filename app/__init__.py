"""The core of Ultra Launcher: everything that is not a widget. It never imports Qt."""

__version__ = "0.1.0"
