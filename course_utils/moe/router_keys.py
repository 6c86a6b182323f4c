"""Keys of published configs that decide the routing and change no parameter count.

    moe_config(find("DeepSeek-V3").config | router_keys("DeepSeek-V3"))

The catalog of `accounting` leaves them out, because it counts; `families.moe_config` needs them,
because the same sizes can route by different rules. Each model's keys stand in router_keys.json
with their source. Left out: models whose routers `families` does not know (Ling, Step-3).
"""

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("router_keys.json")


def router_keys(name: str) -> dict[str, Any]:
    """The keys of one model, by its name in the catalog. ValueError for an unknown name."""
    known = json.loads(FILE.read_text(encoding="utf-8"))
    if name not in known:
        raise ValueError(f"no router keys of {name!r}: there are {', '.join(known)}")
    return known[name]["keys"]
