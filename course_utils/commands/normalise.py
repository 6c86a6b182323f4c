"""Make an executed notebook fit to be committed: the same run gives the same file.

Kept: sources, cell ids, tags, outputs, execution counts. Removed or fixed: execution times, widget
state and the random ids of widget views, the version of Python, and the display name of the kernel.
nbval compares none of what is removed.
"""

from typing import Any

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
LANGUAGE = {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"}
WIDGET = "application/vnd.jupyter.widget-view+json"


def normalise(notebook: dict[str, Any]) -> dict[str, Any]:
    """Change the notebook in place, and return it."""
    notebook["metadata"] = {"kernelspec": dict(KERNEL), "language_info": dict(LANGUAGE)}
    for cell in notebook["cells"]:
        tags = cell["metadata"].get("tags")
        cell["metadata"] = {"tags": tags} if tags else {}
        for output in cell.get("outputs", []):
            _normalise_output(output)
    return notebook


def _normalise_output(output: dict[str, Any]) -> None:
    data = output.get("data", {})
    if "text/plain" in data:
        data.pop(WIDGET, None)  # its model id is random, and there is no model in the file
    if "metadata" in output:
        known = {kind: value for kind, value in output["metadata"].items() if kind in data}
        output["metadata"] = known
