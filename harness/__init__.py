"""A release gate for models."""
