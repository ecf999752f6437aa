"""The nouns every stage speaks: no I/O, no policy, no order of stages."""
