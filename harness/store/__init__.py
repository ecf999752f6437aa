"""Recorded traffic, labels, sealed windows and run folders on disk."""
