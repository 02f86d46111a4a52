"""From a Jupyter notebook to a PDF and the ZIP to upload, with pip alone."""


class SubmissionError(Exception):
    """What is wrong and how to fix it, in words for the student."""
