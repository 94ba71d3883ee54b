"""Pure arithmetic on who holds what, and how much of it. No torch."""
