"""Windows in test order through both versions: legs and pairs."""
