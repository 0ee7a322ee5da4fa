"""What the processes of one run tell each other, and arrays that all of them have: of a single process it is all nothing.

Talk goes through the store that process 0 keeps for `jax.distributed`, not through the devices: it works before there are
any, and where programs differ.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mmjax.config import ConfigError

FOREVER = 7 * 24 * 3_600_000  # milliseconds; whoever fails or is lost in the meantime ends the others, too
# Seconds in which all see what process 0 has written: NFS may look for a file but once a minute.
SEEN_WITHIN = float(os.environ.get("MMJAX_SEEN_WITHIN", 120))
_turns = itertools.count()


def store() -> tuple[Any, int]:
    """The client of the store, None where there is a single process; and which process this is."""
    from jax._src import distributed  # JAX has no public name for it; orbax takes it from there, too

    return distributed.global_state.client, distributed.global_state.process_id


def gathered(what: str, value: Any = None) -> list[Any]:
    """The `value` of every process, in their order: anything that JSON can say. All have to call it, and wait for the last.

    `what` names the occasion.
    """
    told = json.dumps(value)
    client, process = store()
    if client is None:
        return [json.loads(told)]
    place = f"mmjax/{next(_turns)}_{what}"
    client.key_value_set(f"{place}/{process:08d}", told)
    client.wait_at_barrier(place, FOREVER)
    return [json.loads(told) for _, told in sorted(client.key_value_dir_get(place))]


def seen(there: Callable[[], bool], what: Any) -> None:
    """Waits until `there()`: not every file system shows at once what process 0 has written.

    Raises:
        ConfigError: it is not there after `SEEN_WITHIN`, so the folder is another one.
    """
    end = time.monotonic() + SEEN_WITHIN
    while not there():
        if time.monotonic() > end:
            raise ConfigError(
                f"Process {store()[1]} does not see {what}, which process 0 has written: --workdir has to lie on a file system that "
                "all hosts share."
            )
        time.sleep(0.2)


def placed(x: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    """An array that every process has whole on its host, laid out as `sharding` says; it is neither sent nor compared."""
    if sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
