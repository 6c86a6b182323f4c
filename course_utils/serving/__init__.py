"""Serving a model: an engine that runs many requests in one pass, and a server in front of it.

`scheduling` decides who computes what; here are the tensors, the choosing of tokens, the text, and
what an OpenAI-compatible server needs. The names below are loaded when they are first used: the
server with its mock model loads no torch, and the engine no web framework.
"""

from importlib import import_module

_WHERE = {
    "admission": ("Admission", "Load", "Refusal", "StepTimes", "load_of", "predicted_ttft"),
    "backends": ("Backend", "EngineBackend"),
    "config": ("ServerConfig",),
    "engine": ("Engine", "Generation", "Update"),
    "load": ("prompt_of", "run_load"),
    "mock": ("MockBackend", "MockEngine"),
    "paged_cache": ("PagedBatch", "PagedCache", "Span"),
    "params": ("SamplingParams",),
    "sampling": ("probabilities",),
    "server": ("create_app", "serve"),
    "templates": ("chatml", "plain"),
    "text": ("TextStream",),
    "thread": ("ServerThread", "serve_in_thread"),
}
_MODULES = {name: module for module, names in _WHERE.items() for name in names}
__all__ = sorted(_MODULES)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
