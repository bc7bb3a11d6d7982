"""The two ways a command ends early."""


class UserError(Exception):
    """Something the user can mend: bad input, config or file. Commands print the sentence and exit with 2."""


class TrainingDiverged(Exception):
    """A loss or weight is not finite, or items of processes differ. Commands print the sentence and exit with 1."""
