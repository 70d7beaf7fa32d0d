"""One run on disk: configuration, description, record, plan, training."""
