"""Training of the meta-model: learners, losses, regularisers and update rules."""
