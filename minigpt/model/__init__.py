"""The transformer: token ids to logits. Knows nothing of data, optimisers, devices or processes."""
