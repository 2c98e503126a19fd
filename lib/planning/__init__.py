"""Everything random, decided: selected pictures and captions in, requests out."""
