"""gpt-oss: sinks, alternating windows, biases everywhere, clamped experts."""
