"""Choosing a route from quotes and pools: pure, so the router decides with it and the gateway
previews."""

from engine.routing.choice import NoOffer, choose
from engine.routing.market import Market, Pool
from engine.routing.paths import Rules

__all__ = ["Market", "NoOffer", "Pool", "Rules", "choose"]
