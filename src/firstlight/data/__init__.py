"""Text in, tokens in a known and resumable order out."""
