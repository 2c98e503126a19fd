"""Did it help a detector? Labelled pictures in; arms, trained detectors, a protocol, its statistics and advice out."""
