"""Room of Mixture of Experts: routers, expert layers, balance, and experts on many devices."""

from course_utils.moe.config import MoEConfig
from course_utils.moe.routing import Routing, route, route_top_k

__all__ = ["MoEConfig", "Routing", "route", "route_top_k"]
