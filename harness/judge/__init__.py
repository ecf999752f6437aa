"""The judge: from pairs to observations, from observations to evidence that may be watched."""
