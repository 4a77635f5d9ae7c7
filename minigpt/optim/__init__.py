"""Which parameters are updated how, and how fast."""
