"""What docs/figures.md and the model cards say, measured: models in, numbers and panels out."""
