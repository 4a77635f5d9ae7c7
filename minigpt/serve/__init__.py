"""Serving: models over HTTP, and the page to use them by."""
