"""Downloads that lose nothing: ranged transfer, crash record, verification, queue."""
