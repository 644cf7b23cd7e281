"""The failures, one file a family."""
