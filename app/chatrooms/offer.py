"""The models that a chatroom may be given, as GEMINI_MODELS has them, and which tier may use them."""

from dataclasses import dataclass

from app.billing.models import Tier
from app.chatrooms.errors import ModelNotInTier
from app.core import settings


@dataclass(frozen=True)
class OfferedModel:
    """A model with the lowest tier that may use it; `default` for chatrooms that have chosen none."""

    name: str
    tier: Tier
    default: bool


def offered_models() -> list[OfferedModel]:
    """The models in the order of the setting."""
    default = settings().gemini_model
    return [OfferedModel(one.name, Tier(one.tier), one.name == default) for one in settings().gemini_models]


def is_offered(name: str) -> bool:
    """Whether a chatroom may be given this model."""
    return any(one.name == name for one in settings().gemini_models)


def chosen_model(name: str | None) -> str:
    """What a chatroom's model comes to: the default without one, and for one that is not offered any more."""
    return name if name is not None and is_offered(name) else settings().gemini_model


def require_model(name: str | None, tier: Tier) -> None:
    """Raises ModelNotInTier when a user of this tier may not use a chatroom's model."""
    chosen = chosen_model(name)
    for offered in offered_models():
        if offered.name == chosen and offered.tier is Tier.PRO and tier is not Tier.PRO:
            raise ModelNotInTier
