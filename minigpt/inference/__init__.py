"""A model and requests in, text out: decoding on the machine at hand, many requests at a time."""
