"""From a Jupyter notebook to a checked PDF and ZIP, with pip alone."""
