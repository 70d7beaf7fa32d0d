"""Bank of recovered images: immutable shards by teacher, generation and bucket."""

from metazoo.bank.bank import Bank
from metazoo.bank.resident import ResidentBank, ResidentBanks, SharedImages, fitted
from metazoo.bank.shard_index import OptionValue, Shard

__all__ = ["Bank", "OptionValue", "ResidentBank", "ResidentBanks", "Shard", "SharedImages", "fitted"]
