"""Parameters and presets in, a resolved run in its locked workspace out."""
