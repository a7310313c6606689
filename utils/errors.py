"""The one error that is the user's to mend."""


class InputError(ValueError):
    """Bad input: a key, file or row that the message names, with what to do about it.

    The scripts print it as one line and exit with code 2 (`utils.config.script`).
    """
