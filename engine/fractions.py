"""Parts of a whole, counted in integers."""

from __future__ import annotations

from typing import Final

PPM: Final = 1_000_000
BASIS_POINTS: Final = 10_000
