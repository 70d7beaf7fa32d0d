"""The meta-model, its learners, heads, regularisers and losses."""
