"""The window: Qt widgets. No rule of the domain lives here."""
