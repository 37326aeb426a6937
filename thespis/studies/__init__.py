"""The studies: a module each. thespis/study/__init__.py says what one holds."""
