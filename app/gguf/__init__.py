"""GGUF files: what a model holds, read from its header alone."""
