"""How the two versions' answers and features differ, how far, and in which way."""
