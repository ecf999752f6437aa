"""Canary and shadow: the live judge on running traffic, and what keeps production safe meanwhile."""
