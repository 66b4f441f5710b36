"""`AppService`: the app without a face; window and command line are its two faces."""

from app.service.service import AppService

__all__ = ["AppService"]
