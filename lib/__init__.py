"""WHAT: plain Python. No Prefect, nothing at import."""
