"""What stages hand on and where it is kept: rows, requests, labels, settings; manifests and the store."""
