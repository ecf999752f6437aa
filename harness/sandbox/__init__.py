"""Model versions in processes of their own; what happens to them comes back as values."""
