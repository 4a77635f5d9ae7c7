"""Conversations in, a model that answers out."""
