"""The one exception of Thespis. Imports nothing, so that a wrong command is answered before anything heavy is loaded."""


class Fault(Exception):
    """What a user can mend, told in one line: the field, what was given, what is allowed. Never shown as a traceback."""
