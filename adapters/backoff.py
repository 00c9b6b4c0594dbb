"""How long to wait before something that failed is tried again."""


def pause(failures: int, first: float, most: float, factor: float = 2.0) -> float:
    """Seconds after so many failures in a row: ``first`` after one, ``factor`` times as long after each more,
    ``most`` at most."""
    return float(min(most, first * factor ** min(failures - 1, 64)))
