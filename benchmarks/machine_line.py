"""The line that belongs above every figure: on what, and how busy it was."""

import os
import time

from hpctrain import machine


def machine_line() -> str:
    """Date, processor, cores, load and versions."""
    load = ", ".join(f"{x:.2f}" for x in os.getloadavg())
    facts = machine.describe()
    return (
        f"{time.strftime('%Y-%m-%d')}  {facts['cpu']}, {facts['cores']} cores, load {load}, "
        f"torch {facts['packages']['torch']}, hpctrain {facts['hpctrain']}"
    )
