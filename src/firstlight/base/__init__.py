"""What every room may lean on: errors, logging, the launcher's environment, the plain facts of a step."""
