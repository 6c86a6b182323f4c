"""Which names a piece of source uses from outside itself, and which ones it binds.

Python's own symbol table decides, so nested functions, comprehensions, classes, defaults,
decorators and annotations are all seen.
"""

import builtins
import inspect
import symtable
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

_KNOWN = set(dir(builtins)) | {"__name__", "__file__", "__doc__", "__class__"}


def free_names(function: Callable[..., Any]) -> set[str]:
    """The global names that a function's source uses, builtins aside."""
    return free_names_of(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))


def free_names_of(source: str) -> set[str]:
    """The same for any source; names that it binds itself at the top level are not free."""
    top = symtable.symtable(source, "<source>", "exec")
    used = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_referenced()}
    for table in _inner(top):
        used |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
    return used - bound_names(source) - _KNOWN


def bound_names(source: str) -> set[str]:
    """The names that a source binds at its top level: imports, definitions, assignments."""
    top = symtable.symtable(source, "<source>", "exec")
    return {
        symbol.get_name()
        for symbol in top.get_symbols()
        if symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()
    }


def _inner(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    for child in table.get_children():
        yield child
        yield from _inner(child)
