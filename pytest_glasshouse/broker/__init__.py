"""The only room that creates and ends allocations: money, ledger, cleanup proof, reaper."""
