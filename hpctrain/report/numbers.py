"""Numbers as a reader wants them: value and error to the digits that mean something."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MISSING = "–"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def with_error(value: float | None, error: float | None) -> str:
    """``value ± error``, the error to two significant digits and the value to the same place.

    >>> with_error(0.997412, 0.001234)
    '0.9974 ± 0.0012'
    >>> with_error(1542.3, 61.0)
    '1542 ± 61'
    >>> with_error(0.5, None)
    '0.5'
    >>> with_error(-0.472, 0.0451)
    '−0.472 ± 0.045'
    """
    if value is None or not math.isfinite(value):
        return MISSING
    if error is None or not math.isfinite(error) or error < 0:
        return number(value)
    if error == 0:
        return f"{number(value)} ± 0"
    place = 1 - math.floor(math.log10(error))
    if round(error, place) >= 10 ** (2 - place):
        place -= 1
    if abs(value) >= 1e6 or max(abs(value), error) < 1e-4:
        exponent = math.floor(math.log10(max(abs(value), error)))
        scaled = with_error(value / 10**exponent, error / 10**exponent)
        return f"({scaled}) × 10{str(exponent).translate(_SUPERSCRIPT)}"
    digits = max(0, place)
    return _minus(f"{round(value, place):.{digits}f} ± {round(error, place):.{digits}f}")


def figure(entry: Mapping[str, Any] | None) -> str:
    """``with_error`` of a figure ``{"value", "error"}`` of results.json."""
    return MISSING if not entry else with_error(entry.get("value"), entry.get("error"))


def number(value: float | None, digits: int = 4) -> str:
    """A number to ``digits`` significant digits; powers of ten for the very large and small.

    >>> number(1.643e-4), number(52100.0), number(0.25), number(3.365e-19)
    ('1.643 × 10⁻⁴', '52100', '0.25', '3.365 × 10⁻¹⁹')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 10 ** max(digits, 6):
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        text = f"{value:.{decimals}f}"
        return _minus(text.rstrip("0").rstrip(".") if "." in text else text)
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return _minus(f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPT)}")


def count(value: float | None) -> str:
    """A whole number with thin spaces between thousands.

    >>> count(4493442)
    '4\u202f493\u202f442'
    """
    return MISSING if value is None else f"{value:,.0f}".replace(",", "\u202f")


def percent(value: float | None) -> str:
    """A fraction as per cent to three significant digits.

    >>> percent(0.717), percent(0.0591)
    ('71.7 %', '5.91 %')
    """
    return MISSING if value is None or not math.isfinite(value) else f"{number(100 * value, 3)} %"


def seconds(value: float | None) -> str:
    """A wall time.

    >>> seconds(0.21), seconds(42.4), seconds(192), seconds(7265)
    ('0.2 s', '42 s', '3 min 12 s', '2 h 1 min')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    if value < 9.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(value: float | None) -> str:
    """Bytes in decimal units.

    >>> size(812), size(1_234_567), size(25.3e9)
    ('812 B', '1.2 MB', '25.3 GB')
    """
    if value is None:
        return MISSING
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{value / factor:.1f} {unit}"
    return f"{value:.0f} B"


def si(value: float | None, unit: str) -> str:
    """Three significant digits with the unit's SI prefix.

    >>> si(6.883e5, "FLOP"), si(4.2e13, "FLOP/s"), si(0.00123, "J"), si(0, "J")
    ('688 kFLOP', '42 TFLOP/s', '1.23 mJ', '0 J')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    power = 0 if value == 0 else min(6, max(-3, math.floor(math.log10(abs(value)) / 3)))
    prefix = ["n", "µ", "m", "", "k", "M", "G", "T", "P", "E"][power + 3]
    return f"{number(value / 1000**power, 3)} {prefix}{unit}"


def _minus(text: str) -> str:
    return text.replace("-", "−")
