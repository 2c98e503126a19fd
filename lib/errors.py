"""The one error that a user is meant to read.

Everything that stops a run because of what the user gave (a file, a setting, a missing download) raises
`AugmentError` with the value, what was expected and the next step. The command line prints its text and no traceback;
tasks do not retry it. Rows that can be set aside get a reason instead and never raise.
"""


class AugmentError(Exception):
    """Bad input, told in one sentence: value, what was expected, next step."""
