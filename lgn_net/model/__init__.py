"""The network, one file for each box of Fig. 2."""
