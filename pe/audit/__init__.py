"""The mechanism audit."""
