"""Messages, turns and the chat in progress."""
