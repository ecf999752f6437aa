"""Production traffic, recorded: a proxy that passes bytes, and what is kept of them."""
