"""From a Jupyter notebook to a checked PDF and ZIP, with pip alone."""

EXAMPLE = "Muster-12345678"


class SubmissionError(Exception):
    """What is wrong and how to mend it, in words for the student."""


def explain(error: OSError) -> str:
    """What the operating system refused, for a person."""
    where = f": {error.filename}" if error.filename else ""
    return (
        f"{error.strerror or error}{where}\n"
        "Earlier results were not changed. Make room, mend the permissions "
        "or choose another --output-dir."
    )
