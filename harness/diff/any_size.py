"""Arithmetic on what versions answer, which may be numbers of any size.

What overflows is infinite, what has no value is NaN, and nobody is warned: rules look for finite figures.
"""

from __future__ import annotations

import numpy as np

any_size = np.errstate(over="ignore", invalid="ignore", divide="ignore")
"""Decorates what computes with answers."""
SQUARABLE = 1e150
"""Values as large as that have no square, and no line is fitted to them."""
