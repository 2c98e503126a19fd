"""How good is it: two sets of pictures in, numbers and a report out."""
