"""beartype as jaxtyping's import hook calls it: an int will do where a float is asked for, as type checkers agree."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
