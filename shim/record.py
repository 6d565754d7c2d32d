"""Dataclasses for the start path: the same to read and to type, but made without ``dataclasses``.

Importing that module costs 7 ms (it needs ``inspect``), and each class that it makes half a
millisecond more, since it compiles source text. Every start of a container would pay for both.
Here a class gets methods that all records share. A type checker takes it for the real thing.

Whoever is in no such hurry may still use ``dataclasses.asdict``, ``replace`` and ``fields`` on a
record: what they need is made when they first ask.
"""

from __future__ import annotations

__all__ = ["changed", "field", "record"]

TYPE_CHECKING = False  # type checkers take it for true; `typing` itself costs 2 ms to import
if TYPE_CHECKING:
    from collections.abc import Callable
    from dataclasses import dataclass as record
    from dataclasses import field
    from typing import Any, TypeVar

    T = TypeVar("T")
else:

    class _Made:
        """Stands in a class for a default that is made for each object."""

        def __init__(self, factory: Callable[[], object]) -> None:
            self.factory = factory

    def field(*, default_factory: Callable[[], object]) -> _Made:
        """A field with a default of its own for each object, such as a list."""
        return _Made(default_factory)

    def record(*, kw_only: bool = False, frozen: bool = False) -> Callable[[type], type]:
        """Make a class a record: with fields by keyword alone, with objects that do not change."""

        def make(kind: type) -> type:
            names = tuple(kind.__annotations__)
            defaults = {name: vars(kind)[name] for name in names if name in vars(kind)}
            made = {name: one.factory for name, one in defaults.items() if isinstance(one, _Made)}
            for name in made:
                delattr(kind, name)
                del defaults[name]
            kind.__record__ = names, frozenset(names), defaults, made
            kind.__init__ = _by_keyword if kw_only else _init
            kind.__repr__, kind.__eq__ = _repr, _eq
            kind.__hash__ = _hash if frozen else None
            if frozen:
                kind.__setattr__ = kind.__delattr__ = _refuse
            kind.__dataclass_fields__ = _Fields(kw_only=kw_only, frozen=frozen)
            return kind

        return make

    def _init(self: object, *given: object, **values: object) -> None:
        names = type(self).__record__[0]
        if len(given) > len(names) or not values.keys().isdisjoint(names[: len(given)]):
            raise TypeError(f"{type(self).__name__} is given more than its fields")
        _by_keyword(self, **dict(zip(names, given, strict=False)), **values)

    def _by_keyword(self: object, **values: object) -> None:
        names, known, defaults, made = type(self).__record__
        if not known.issuperset(values):
            wrong = ", ".join(sorted(set(values) - known))
            raise TypeError(f"{type(self).__name__} has no field {wrong}")
        whole = {**defaults, **values}
        for name, factory in made.items():
            if name not in whole:
                whole[name] = factory()
        if len(whole) != len(names):
            missing = ", ".join(name for name in names if name not in whole)
            raise TypeError(f"{type(self).__name__} lacks the field {missing}")
        vars(self).update((name, whole[name]) for name in names)

    def _repr(self: object) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({inside})"

    def _eq(self: object, other: object) -> bool:
        return vars(self) == vars(other) if type(self) is type(other) else NotImplemented

    def _hash(self: object) -> int:
        return hash(tuple(vars(self).values()))

    def _refuse(self: object, name: str, *_: object) -> None:
        raise AttributeError(f"{name} of a {type(self).__name__} cannot be changed")

    class _Fields:
        """``__dataclass_fields__``, by which ``dataclasses`` knows a class of its own."""

        def __init__(self, **options: bool) -> None:
            self._options = options

        def __get__(self, instance: object, kind: type) -> dict[str, Any]:
            import dataclasses  # noqa: PLC0415 - what this module is there to avoid

            _, _, defaults, made = kind.__record__
            body = {
                "__annotations__": dict(kind.__annotations__),
                "__module__": kind.__module__,
                **defaults,
                **{name: dataclasses.field(default_factory=one) for name, one in made.items()},
            }
            real = dataclasses.dataclass(**self._options)(type(kind.__name__, (), body))
            return real.__dataclass_fields__


def changed(one: T, **values: object) -> T:
    """A record like ``one`` with other values."""
    return type(one)(**{**vars(one), **values})
