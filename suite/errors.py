"""The errors that a user may see; each message says what is wrong, then what to do."""


class ModelError(ValueError):
    """A model cannot be found, read or run; the message says what to do."""


class ClaimError(ValueError):
    """A claim, metric or measurement that cannot be used; the message says what to do."""


class NotApplicable(ClaimError):
    """A notebook has nothing to measure on this model; the message says why. The runner goes on
    with the next one.
    """


class TaskError(ValueError):
    """A prompt or a generator's argument that the task cannot be built from."""


class VocabularyError(TaskError):
    """Words of a task that this model's vocabulary splits, so that the task cannot run on it."""
