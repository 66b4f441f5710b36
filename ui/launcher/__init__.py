"""The launcher: this machine, the chosen model, its plan."""
