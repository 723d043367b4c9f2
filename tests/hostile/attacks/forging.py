"""Attacks that claim marks: in the notebook's metadata, in outputs, in messages to whoever grades."""

from attack import Attack

ATTACKS: tuple[Attack, ...] = ()
