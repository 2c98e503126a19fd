"""HOW: Prefect tasks. A manifest in, a manifest out; retries, caching, limits, progress, artifacts."""
