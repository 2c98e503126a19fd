"""Ground, knows no stage: errors, boxes and masks, pictures, files, keys, words, families, checkpoints, devices."""
