"""What a picture shows, in a sentence: selected pictures in, captions and prompts out."""
