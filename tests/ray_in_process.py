"""What of Ray the driver uses, in this process: tasks run when they are waited for, and all they get is pickled."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any, ClassVar


class RayError(Exception):
    """As `ray.exceptions.RayError`."""


class Reference:
    """A reference to something pickled, or to a task that is not yet done."""

    held: ClassVar[dict[str, bytes]] = {}

    def __init__(self, name: str) -> None:
        self.name = name

    def hex(self) -> str:
        return self.name


class Ray:
    """A cluster of one process, which may die on some of the tasks it is given.

    Args:
        cpus: of each node.
        deaths: numbers of the tasks, from 0, that end in `RayError`.
    """

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self, *, cpus: tuple[int, ...] = (1, 1), deaths: frozenset[int] = frozenset()) -> None:
        self.cpus, self.deaths = cpus, deaths
        self.asked: list[dict[str, Any]] = []
        self.at_a_time = 0
        self._done = 0
        self._tasks: dict[Reference, tuple[Any, bytes]] = {}

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": float(count)}} for count in self.cpus]

    def put(self, thing: Any) -> Reference:
        reference = Reference(f"{id(self)}-{len(Reference.held)}")
        Reference.held[reference.name] = pickle.dumps(thing)
        return reference

    @staticmethod
    def get_held(reference: Reference) -> Any:
        return pickle.loads(Reference.held[reference.name])  # noqa: S301  # its own bytes

    def remote(self, function: Any) -> Any:
        def options(**given: Any) -> Any:
            self.asked.append(given)

            def remote(*arguments: Any) -> Reference:
                reference = Reference("task")
                self._tasks[reference] = function, pickle.dumps(arguments)
                self.at_a_time = max(self.at_a_time, len(self._tasks))
                return reference

            return SimpleNamespace(remote=remote)

        return SimpleNamespace(options=options)

    def wait(self, references: list[Reference], timeout: float) -> tuple[list[Reference], list[Reference]]:
        return references[-1:], references[:-1]  # the last one first: the order must not matter

    def get(self, reference: Reference) -> Any:
        function, arguments = self._tasks.pop(reference)
        self._done += 1
        if self._done - 1 in self.deaths:
            raise RayError("the worker died\nand there is a page about it")
        found = function(*pickle.loads(arguments))  # noqa: S301  # its own bytes
        return pickle.loads(pickle.dumps(found))  # noqa: S301  # its own bytes
