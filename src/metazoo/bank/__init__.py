"""The bank of recovered images: immutable shards by teacher, generation and bucket."""

from metazoo.bank.bank import Bank
from metazoo.bank.index import Setting, Shard
from metazoo.bank.resident import ResidentBank, ResidentBanks, fitted

__all__ = ["Bank", "ResidentBank", "ResidentBanks", "Setting", "Shard", "fitted"]
