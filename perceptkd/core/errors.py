"""The base of errors about what a user gave us."""


class InputError(ValueError):
    """Data, a config or an option that cannot be used; the message says what is wrong and how to put it right.

    Commands print the message alone, without a traceback.
    """
