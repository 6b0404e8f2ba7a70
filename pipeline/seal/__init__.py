"""The seal stage and what follows: shards, their indexes, the card; verify, repair, asking again for pictures."""
