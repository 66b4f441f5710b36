"""The engine: llama.cpp in a child process, driven by a thread."""
