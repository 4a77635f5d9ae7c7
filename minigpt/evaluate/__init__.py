"""How good a model is, in units that survive a change of tokenizer, and what it must beat."""
