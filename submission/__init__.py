"""From a Jupyter notebook to a checked PDF and ZIP, with pip alone."""


class SubmissionError(Exception):
    """What is wrong and how to mend it, in words for the student."""
