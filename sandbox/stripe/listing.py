"""Lists by cursor and expansion of ids into objects.

https://docs.stripe.com/api/pagination, https://docs.stripe.com/api/expanding_objects
"""

import copy
from typing import Any

from sandbox.stripe.objects import list_object
from sandbox.stripe.store import TABLES, Json, Store
from sandbox.stripe.wire import Params, as_int, as_list, as_text, parameter_invalid

DEFAULT_LIMIT, MAX_LIMIT = 10, 100
KIND_OF_FIELD = {"latest_invoice": "invoice"}  # fields not named after the kind they hold
COMPARISONS = ("gt", "gte", "lt", "lte")


def page(items: list[Json], params: Params, url: str) -> Json:
    """One page of `items`, newest first, by `limit`, `created`, `starting_after` and `ending_before`."""
    limit = as_int(params, "limit", DEFAULT_LIMIT)
    if limit is None or not 1 <= limit <= MAX_LIMIT:
        raise parameter_invalid("limit", "This value must be between 1 and 100.", "parameter_invalid_integer")
    items = [item for item in items if _created_fits(item["created"], params)]
    after, before = as_text(params, "starting_after"), as_text(params, "ending_before")
    if before:
        end = _position(items, before, "ending_before")
        start = max(0, end - limit)
        return list_object(items[start:end], url, has_more=start > 0)
    start = _position(items, after, "starting_after") + 1 if after else 0
    return list_object(items[start : start + limit], url, has_more=len(items) > start + limit)


def customer_of(store: Store, params: Params) -> str | None:
    """The customer whose objects are wanted. Raises StripeError `resource_missing` when there never was such a one."""
    customer = as_text(params, "customer")
    return store.get("customer", customer, "customer")["id"] if customer else None


def _position(items: list[Json], object_id: str, param: str) -> int:
    for position, item in enumerate(items):
        if item["id"] == object_id:
            return position
    raise parameter_invalid(param, f"No such object: '{object_id}'", "resource_missing")


def _created_fits(created: int, params: Params) -> bool:
    wanted = params.get("created")
    if not wanted:
        return True
    if isinstance(wanted, str):
        return created == as_int(params, "created")
    bounds = {name: as_int(wanted, name) for name in COMPARISONS}
    return (
        (bounds["gt"] is None or created > bounds["gt"])
        and (bounds["gte"] is None or created >= bounds["gte"])
        and (bounds["lt"] is None or created < bounds["lt"])
        and (bounds["lte"] is None or created <= bounds["lte"])
    )


def expanded(store: Store, answer: Json, params: Params) -> Json:
    """A copy of an answer with the ids that `expand` names replaced by their objects."""
    answer = copy.deepcopy(answer)
    for path in as_list(params, "expand"):
        _expand(store, answer, str(path).split("."))
    return answer


def _expand(store: Store, node: Any, steps: list[str]) -> None:
    if isinstance(node, list):
        for element in node:
            _expand(store, element, steps)
        return
    if not isinstance(node, dict) or not steps:
        return
    name, *rest = steps
    if node.get("object") == "checkout.session" and name == "line_items":
        lines = list(store.table("line_items").get(node["id"], {}).get("data", []))
        node[name] = list_object(copy.deepcopy(lines), f"/v1/checkout/sessions/{node['id']}/line_items")
    elif isinstance(node.get(name), str):
        kind = KIND_OF_FIELD.get(name, name)
        if kind in TABLES and node[name] in store.table(kind):
            node[name] = copy.deepcopy(store.table(kind)[node[name]])
    _expand(store, node.get(name), rest)
