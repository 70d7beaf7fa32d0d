"""What metazoo costs, measured side by side with the published way; see docs/speed.md."""
