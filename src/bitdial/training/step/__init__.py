"""One optimizer step in any floating-point format: what the loop, and stepping by hand, are made of."""
