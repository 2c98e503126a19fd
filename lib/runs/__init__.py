"""What a run is told: parameters and presets in, a resolved run in its locked workspace out."""
