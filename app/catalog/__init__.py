"""Models: those that the app knows, those on the Hugging Face Hub, those on this machine."""

import os

# Read by huggingface_hub when it is imported. Nobody is told that the app runs, or where.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
