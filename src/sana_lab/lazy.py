"""Names that a package looks up in its modules when they are first used, so that importing it stays cheap."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def looked_up(
    package: Mapping[str, Any], where: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package, for its `__init__.py` to take over.

    Type checkers and editors want the same names as imports, below `if TYPE_CHECKING`.

    Args:
        package: its `globals()`.
        where: each name and the module of the package that it is in.

    Returns:
        Both. The first raises AttributeError, in Python's words, for a name that is nowhere.
    """
    of = package["__name__"]

    def getattr_(name: str) -> Any:
        if name in where:
            return getattr(import_module(f"{of}.{where[name]}"), name)
        raise AttributeError(f"module {of!r} has no attribute {name!r}")

    return getattr_, lambda: sorted({*package, *where})
