"""The configuration of a run: parameters and presets in, a resolved run in its locked workspace out."""
