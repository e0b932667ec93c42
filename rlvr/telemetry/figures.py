"""Numbers as people read them."""


def percent(value: float | None, digits: int = 1) -> str:
    """A share: ``41.2%``."""
    return "-" if value is None else f"{100 * value:.{digits}f}%"


def compact(value: float | None) -> str:
    """A large count or rate: ``950``, ``4.1k``, ``1.2M``."""
    if value is None:
        return "-"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.1f}{letter}"
    return f"{value:.0f}"


def seconds(value: float | None) -> str:
    """A time that is usually short: ``1.12 s``, ``83.4 s``."""
    if value is None:
        return "-"
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def duration(value: float | None) -> str:
    """A time that is usually long: ``45 s``, ``3:31``, ``1:02:03``."""
    if value is None:
        return "-"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{rest:02d}"
    return f"{minutes}:{rest:02d}" if minutes else f"{rest} s"


def figure(name: str, value: float | None) -> str:
    """A metric: those named after an accuracy, a share or a k-sample average as a percentage."""
    if value is None:
        return "-"
    leaf = name.rsplit("/", 1)[-1]
    if leaf.endswith(("accuracy", "share")) or leaf.startswith(("avg_at_", "pass_at_", "maj_at_")):
        return percent(value)
    return f"{value:.4g}"
