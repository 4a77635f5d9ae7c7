"""Models in, an HTTP server out that speaks as OpenAI's does, on the batched engine."""
