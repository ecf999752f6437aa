"""From a policy file and evidence to PROMOTE, ROLLBACK or HOLD, with the reason in plain words."""
