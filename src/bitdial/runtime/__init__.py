"""SHIP: trained networks, run fast."""
