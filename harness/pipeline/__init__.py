"""The stages in order: gate, compare, scenarios, demo. Only this package knows the order."""
