"""What says how far a number can be trusted: ceilings, nulls, baselines."""
