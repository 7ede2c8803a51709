"""Measures an agent that follows a real Git server: how soon a push serves, what bad commits do, what idling costs."""
