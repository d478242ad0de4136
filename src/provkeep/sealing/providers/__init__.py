"""Where keys are kept: places that wrap and unwrap a key, behind one small protocol."""

from provkeep.sealing.providers.base import NAMES, Provider, make, sign_locally, within

__all__ = ["NAMES", "Provider", "make", "sign_locally", "within"]
