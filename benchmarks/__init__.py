"""How fast is the hot path on this machine? Compare figures within one run only."""
