"""Downloads: the board of one, the queue, disk and speed."""
