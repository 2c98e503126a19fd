"""Requests in, pictures out: painters fill windows, composites return them to the picture."""
