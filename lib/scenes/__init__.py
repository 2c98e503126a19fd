"""Drawn pictures with exact boxes: numbers in, pictures and COCO annotations out. `python -m lib.scenes`."""
