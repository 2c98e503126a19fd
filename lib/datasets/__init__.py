"""Where data enters and leaves: annotations and pictures in, rows out; rows and the store in, lossless COCO out."""
