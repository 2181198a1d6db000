"""The error by which all packages refuse what they are given."""


class InputError(ValueError):
    """A file, an option or a setting cannot be used; the message is one line that says which and why.

    The command line prints it and exits with code 2. Any other ValueError is a defect of the program.
    """
