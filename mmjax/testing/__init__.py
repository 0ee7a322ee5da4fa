"""What parts have to pass, whoever wrote them: see `checks` and, from the command line, `experiments/check.py`."""
