"""A model that is there already in, one that does what its examples show out."""
